"""Detection and redrawing of images that show nothing."""

import numpy as np
import pytest

from t2ipal.synthesis.gate import Drawn, FloatImage, Gate, fault, to_bytes
from t2ipal.synthesis.plan import Caption, Sample

BASE_SEED = 4
SAMPLES = [Sample(Caption(f"c{index}", f"text {index}", ("dog",), ()), 0) for index in range(3)]


def picture(seed: int) -> FloatImage:
    return np.random.default_rng(seed).random((8, 8, 3), dtype=np.float32)


def flat(red: float, green: float, blue: float) -> FloatImage:
    return np.broadcast_to(np.float32([red, green, blue]), (8, 8, 3)).copy()


def with_nan() -> FloatImage:
    image = picture(0)
    image[3, 3, 1] = np.nan
    return image


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (picture(0), None),
        (with_nan(), "nan"),
        (np.full((8, 8, 3), np.inf, np.float32), "nan"),
        (flat(0, 0, 0), "black"),
        (picture(0) / 255, "black"),
        (flat(1, 1, 1), "constant"),
        (flat(0.9, 0.2, 0.1), "constant"),
        (flat(0.5, 0.5, 0.5) + picture(0) / 255, "constant"),
        (picture(0) * 0.05, None),
    ],
)
def test_faults_are_told_apart(image: FloatImage, expected: str | None) -> None:
    assert fault(image) == expected


def test_a_single_bright_dot_is_a_picture() -> None:
    image = flat(0, 0, 0)
    image[2, 2] = 0.5
    assert fault(image) is None


def test_bytes_are_rounded_and_nan_is_black() -> None:
    image = np.float32([[[0, 0.5, 1], [np.nan, np.inf, -np.inf], [1.5, -1, 0.999]]])
    assert to_bytes(image).tolist() == [[[0, 128, 255], [0, 0, 0], [255, 0, 255]]]


class Recorder:
    """A model that fails for given seeds and writes down what it was asked."""

    def __init__(self, bad: dict[int, FloatImage]) -> None:
        self.bad = bad
        self.calls: list[tuple[list[str], list[int]]] = []

    def __call__(self, prompts: list[str], seeds: list[int]) -> list[FloatImage]:
        self.calls.append((prompts, seeds))
        return [self.bad.get(seed, picture(seed)) for seed in seeds]


def draw_batch(model: Recorder, redraws: int) -> list[Drawn]:
    """Draw the samples together until the gate is content."""
    gate = Gate(SAMPLES, BASE_SEED, redraws)
    while gate.pending:
        images = model(*gate.request())
        gate.judge(images, [False] * len(images))
    return gate.drawn()


def test_only_images_at_fault_are_drawn_again_and_with_the_next_seed_of_their_own() -> None:
    model = Recorder({SAMPLES[1].seed(0, BASE_SEED): flat(0, 0, 0)})
    drawn = draw_batch(model, redraws=3)
    assert [item.attempt for item in drawn] == [0, 1, 0]
    assert [item.faults for item in drawn] == [(), ("black",), ()]
    assert not any(item.failed for item in drawn)
    assert model.calls[1] == (["text 1"], [SAMPLES[1].seed(1, BASE_SEED)])
    assert len(model.calls) == 2
    for item, sample in zip(drawn, SAMPLES, strict=True):
        assert (item.image == to_bytes(picture(sample.seed(item.attempt, BASE_SEED)))).all()


def test_an_image_at_fault_to_the_last_is_kept_as_failed() -> None:
    bad = [with_nan(), flat(0, 0, 0), flat(1, 0, 0)]
    model = Recorder({SAMPLES[0].seed(attempt, BASE_SEED): image for attempt, image in enumerate(bad)})
    drawn = draw_batch(model, redraws=2)
    assert drawn[0].failed
    assert drawn[0].attempt == 2
    assert drawn[0].faults == ("nan", "black", "constant")
    assert [item.failed for item in drawn[1:]] == [False, False]


def test_without_redraws_the_first_fault_fails() -> None:
    model = Recorder({SAMPLES[2].seed(0, BASE_SEED): with_nan()})
    drawn = draw_batch(model, redraws=0)
    assert [item.failed for item in drawn] == [False, False, True]
    assert len(model.calls) == 1


def test_what_the_safety_checker_blanked_is_a_fault_of_its_own() -> None:
    assert fault(flat(0, 0, 0), blanked=True) == "blanked"
    assert fault(picture(0), blanked=True) == "blanked"
    assert fault(with_nan(), blanked=True) == "nan"


def test_a_blanked_image_is_drawn_again_and_counted() -> None:
    gate = Gate(SAMPLES, BASE_SEED, redraws=1)
    gate.judge([picture(0), flat(0, 0, 0), picture(1)], [False, True, False])
    assert gate.request() == (["text 1"], [SAMPLES[1].seed(1, BASE_SEED)])
    gate.judge([flat(0, 0, 0)], [True])
    assert not gate.pending
    assert [item.faults for item in gate.drawn()] == [(), ("blanked", "blanked"), ()]
    assert [item.failed for item in gate.drawn()] == [False, True, False]
