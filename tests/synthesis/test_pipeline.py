"""Overlap of denoising with all that follows: order, redraws, stops, and errors on either side."""

import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import WAIT

from t2ipal.errors import UserError
from t2ipal.settings import SynthesisSettings
from t2ipal.synthesis.encoding import Encoded
from t2ipal.synthesis.families import Condition, Latents
from t2ipal.synthesis.gate import FloatImage, to_bytes
from t2ipal.synthesis.generator import load
from t2ipal.synthesis.pipeline import _Finisher, draw_batches
from t2ipal.synthesis.plan import Caption, Sample

BASE_SEED = 4
SAMPLES = [Sample(Caption(f"c{index}", f"text {index}", ("dog",), ()), 0) for index in range(11)]
BATCHES = [SAMPLES[first : first + 3] for first in range(0, 11, 3)]
Until = Callable[[Callable[[], object]], None]


class Fake:
    """A model whose pictures show their seeds; it denoises in ``steps`` steps."""

    spare_cores = 1

    def __init__(self, bad: Sequence[int] = (), steps: int = 1) -> None:
        self.bad, self.steps = set(bad), steps
        self.conditioned: list[list[str]] = []
        self.denoised: list[list[int]] = []
        self.decoded: list[int] = []
        self.threads: dict[str, set[int]] = {"condition": set(), "denoise": set(), "decode": set()}
        self.taken_steps = 0

    def condition(self, prompts: list[str]) -> Condition:
        self.threads["condition"].add(threading.get_ident())
        self.conditioned.append(prompts)
        return {"prompt": prompts}

    def denoise(
        self, condition: Condition, seeds: list[int], between_steps: Callable[[], None] | None = None
    ) -> Latents:
        self.threads["denoise"].add(threading.get_ident())
        self.denoised.append(list(seeds))
        assert len(condition["prompt"]) == len(seeds)
        for _ in range(self.steps):
            self.taken_steps += 1
            if between_steps is not None:
                between_steps()
        return Latents(torch.tensor(seeds, dtype=torch.int64))

    def decode(self, latents: Latents) -> tuple[list[FloatImage], list[bool]]:
        self.threads["decode"].add(threading.get_ident())
        seeds = latents.values.tolist()
        self.decoded += seeds
        pictures = [np.random.default_rng(seed).random((8, 8, 3), dtype=np.float32) for seed in seeds]
        images = [picture * (seed not in self.bad) for picture, seed in zip(pictures, seeds, strict=True)]
        return images, [False] * len(seeds)


@pytest.fixture(params=[0, 1, 4])
def spare_cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Have fake models leave so many cores."""
    monkeypatch.setattr(Fake, "spare_cores", request.param)
    return request.param


class Shelf:
    """Takes what is written; may wait for a sign, or break."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.files: list[Encoded] = []
        self.batches = 0
        self.threads: set[int] = set()
        self.before: Callable[[int], None] = lambda batch: None

    def __call__(self, samples: Sequence[Sample], files: Sequence[Encoded]) -> None:
        self.threads.add(threading.get_ident())
        self.before(self.batches)
        self.batches += 1
        self.keys += [sample.key for sample in samples]
        self.files += files


def draw(
    model: Any,
    shelf: Shelf,
    batches: Any = None,
    redraws: int = 2,
    stop: Callable[[], bool] = lambda: False,
    image_format: str = "png",
) -> None:
    draw_batches(model, BATCHES if batches is None else batches, BASE_SEED, redraws, shelf, stop, image_format)


def pixels(files: Sequence[Encoded]) -> list[Any]:
    return [np.asarray(Image.open(io.BytesIO(file.data))) for file in files]


@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_every_image_is_written_once_in_order_as_the_gate_would_give_it(spare_cores: int, image_format: str) -> None:
    model, shelf = Fake(), Shelf()
    draw(model, shelf, image_format=image_format)
    assert shelf.keys == [sample.key for sample in SAMPLES]
    assert {Image.open(io.BytesIO(file.data)).format for file in shelf.files} == {image_format.upper()}
    expected, _ = Fake().decode(Latents(torch.tensor([sample.seed(0, BASE_SEED) for sample in SAMPLES])))
    assert all((file == to_bytes(image)).all() for file, image in zip(pixels(shelf.files), expected, strict=True))
    assert model.conditioned == [[sample.caption.text for sample in batch] for batch in BATCHES]


def test_denoising_stays_on_the_calling_thread_and_all_else_leaves_it() -> None:
    model, shelf = Fake([SAMPLES[1].seed(0, BASE_SEED)]), Shelf()
    draw(model, shelf)
    assert model.threads["denoise"] == {threading.get_ident()}
    assert threading.get_ident() not in model.threads["decode"] | shelf.threads
    assert len(shelf.threads) == 1


def test_without_a_spare_core_all_networks_run_on_the_calling_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fake, "spare_cores", 0)
    model, shelf = Fake([SAMPLES[1].seed(0, BASE_SEED)]), Shelf()
    draw(model, shelf)
    assert list(model.threads.values()) == [{threading.get_ident()}] * 3
    assert threading.get_ident() not in shelf.threads
    assert shelf.files[1].attempt == 1


def test_a_batch_is_denoised_while_the_one_before_is_written_and_no_further_one(spare_cores: int, until: Until) -> None:
    model, shelf = Fake(), Shelf()
    seen: list[int] = []

    def wait_for_the_next(batch: int) -> None:
        until(lambda: len(model.denoised) >= min(batch + 2, len(BATCHES)))
        time.sleep(0.02)
        seen.append(len(model.denoised))

    shelf.before = wait_for_the_next
    draw(model, shelf)
    assert seen == [2, 3, 4, 4]


def test_embeddings_of_the_next_batch_are_computed_while_this_one_is_denoised(until: Until) -> None:
    class Waiting(Fake):
        def denoise(self, condition: Condition, seeds: list[int], between_steps: Any = None) -> Latents:
            ahead = min(len(self.denoised) + 2, len(BATCHES))
            until(lambda: len(self.conditioned) >= ahead)
            return super().denoise(condition, seeds, between_steps)

    shelf = Shelf()
    draw(Waiting(), shelf)
    assert len(shelf.keys) == len(SAMPLES)


def test_images_at_fault_are_redrawn_before_anything_later_is_written(spare_cores: int) -> None:
    bad = [SAMPLES[1].seed(0, BASE_SEED), SAMPLES[1].seed(1, BASE_SEED), SAMPLES[10].seed(0, BASE_SEED)]
    model, shelf = Fake(bad), Shelf()
    draw(model, shelf)
    assert shelf.keys == [sample.key for sample in SAMPLES]
    assert [file.attempt for file in shelf.files] == [0, 2, *[0] * 8, 1]
    assert shelf.files[1].faults == ("black", "black")
    assert shelf.files[10].faults == ("black",)
    assert not any(file.failed for file in shelf.files)
    assert [SAMPLES[1].seed(1, BASE_SEED)] in model.denoised
    assert model.threads["denoise"] == {threading.get_ident()}
    assert len(set(map(bytes, pixels(shelf.files)))) == len(SAMPLES)


def test_an_image_at_fault_to_the_last_is_written_as_failed(spare_cores: int) -> None:
    bad = [SAMPLES[4].seed(attempt, BASE_SEED) for attempt in range(3)]
    shelf = Shelf()
    draw(Fake(bad), shelf)
    assert [file.failed for file in shelf.files] == [index == 4 for index in range(11)]
    assert shelf.files[4].faults == ("black",) * 3


def test_a_model_that_only_gives_black_ends(spare_cores: int) -> None:
    bad = [sample.seed(attempt, BASE_SEED) for sample in SAMPLES for attempt in range(3)]
    model, shelf = Fake(bad), Shelf()
    draw(model, shelf)
    assert all(file.failed for file in shelf.files)
    assert sum(map(len, model.denoised)) == 3 * len(SAMPLES)


@pytest.mark.parametrize("after", [0, 1, 3, 4])
def test_a_stop_begins_no_batch_and_finishes_those_under_way(spare_cores: int, after: int) -> None:
    model, shelf = Fake(), Shelf()
    draw(model, shelf, stop=lambda: len(model.denoised) == after)
    assert len(model.denoised) == after
    assert shelf.keys == [sample.key for batch in BATCHES[:after] for sample in batch]


def test_a_stop_still_redraws_what_is_under_way(spare_cores: int) -> None:
    model, shelf = Fake([SAMPLES[0].seed(0, BASE_SEED)]), Shelf()
    draw(model, shelf, stop=lambda: len(model.denoised) > 0)
    assert shelf.keys == [sample.key for sample in BATCHES[0]]
    assert shelf.files[0].attempt == 1


def test_a_full_disk_stops_the_denoising_after_the_step_under_way(
    spare_cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, finish = threading.Event(), _Finisher._finish

    def finish_and_say(*given: Any) -> None:
        try:
            finish(*given)
        finally:
            failed.set()  # only now: what fails, and what is known of it, are two moments

    monkeypatch.setattr(_Finisher, "_finish", finish_and_say)

    class Slow(Fake):
        def denoise(self, condition: Condition, seeds: list[int], between_steps: Any = None) -> Latents:
            def step() -> None:
                if len(self.denoised) == 2:
                    assert failed.wait(WAIT)
                between_steps()

            return super().denoise(condition, seeds, step)

    model, shelf = Slow(steps=5), Shelf()

    def full(batch: int) -> None:
        raise UserError("no space left")

    shelf.before = full
    with pytest.raises(UserError, match="no space left"):
        draw(model, shelf)
    assert model.taken_steps == 5 + 1
    assert shelf.keys == []


def test_after_a_failed_batch_no_later_one_is_written(spare_cores: int) -> None:
    model, shelf = Fake(), Shelf()

    def second_fails(batch: int) -> None:
        if batch == 1:
            time.sleep(0.05)
            raise OSError("gone")

    shelf.before = second_fails
    with pytest.raises(OSError, match="gone"):
        draw(model, shelf)
    assert shelf.keys == [sample.key for sample in BATCHES[0]]


class Breaking(Fake):
    """Raises when it is asked to denoise for the ``at``-th time."""

    def __init__(self, at: int, bad: Sequence[int] = ()) -> None:
        super().__init__(bad)
        self.at = at

    def denoise(self, condition: Condition, seeds: list[int], between_steps: Any = None) -> Latents:
        if len(self.denoised) == self.at:
            time.sleep(0.05)
            raise KeyboardInterrupt
        return super().denoise(condition, seeds, between_steps)


@pytest.mark.parametrize("at", [0, 1, 3])
def test_what_was_denoised_before_an_error_is_written(spare_cores: int, at: int) -> None:
    shelf = Shelf()
    with pytest.raises(KeyboardInterrupt):
        draw(Breaking(at), shelf)
    assert shelf.keys == [sample.key for batch in BATCHES[:at] for sample in batch]


def test_an_error_while_a_batch_waits_for_its_redraw_writes_nothing_out_of_order(spare_cores: int) -> None:
    shelf = Shelf()
    with pytest.raises(KeyboardInterrupt):
        draw(Breaking(2, bad=[SAMPLES[4].seed(0, BASE_SEED)]), shelf)
    assert shelf.keys == [sample.key for sample in BATCHES[0]]


def test_a_second_interrupt_during_the_clearing_up_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(finisher: Any, serve: bool) -> None:
        raise KeyboardInterrupt

    shelf = Shelf()
    monkeypatch.setattr("t2ipal.synthesis.pipeline._Finisher._settle_one", interrupted)
    with pytest.raises(KeyboardInterrupt):
        draw(Breaking(2, bad=[SAMPLES[0].seed(0, BASE_SEED)]), shelf)
    assert shelf.keys == []


def test_prompts_and_batches_that_cannot_be_had_are_errors_of_the_caller(
    spare_cores: int,
) -> None:
    class Refusing(Fake):
        def condition(self, prompts: list[str]) -> Condition:
            if "text 3" in prompts:
                raise UserError("refuses")
            return super().condition(prompts)

    shelf = Shelf()
    with pytest.raises(UserError, match="refuses"):
        draw(Refusing(), shelf)
    assert shelf.keys == [sample.key for sample in BATCHES[0]]

    def batches() -> Iterator[list[Sample]]:
        yield BATCHES[0]
        raise FileNotFoundError

    with pytest.raises(FileNotFoundError):
        draw(Fake(), Shelf(), batches())


def test_nothing_to_draw_is_nothing_written_and_no_thread_stays(spare_cores: int) -> None:
    before = set(threading.enumerate())
    shelf = Shelf()
    draw(Fake(), shelf, [])
    draw(Fake(), shelf)
    with pytest.raises(KeyboardInterrupt):
        draw(Breaking(1), shelf)
    assert set(threading.enumerate()) <= before  # those of other tests may end


def test_a_real_model_gives_the_pixels_of_drawing_batch_by_batch(pipeline_dir: Path) -> None:
    chosen = SynthesisSettings(model=f"local-dir:{pipeline_dir}", steps=3, height=16, width=16)
    model, shelf = load(chosen.model_dump(mode="json"), "cpu"), Shelf()
    draw(model, shelf)
    expected: list[FloatImage] = []
    for batch in BATCHES:
        prompts = [sample.caption.text for sample in batch]
        expected += model.draw(prompts, [sample.seed(0, BASE_SEED) for sample in batch])
    assert all((file == to_bytes(image)).all() for file, image in zip(pixels(shelf.files), expected, strict=True))
    assert len(set(map(bytes, pixels(shelf.files)))) == len(SAMPLES)
