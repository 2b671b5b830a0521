from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tests.recognition.conftest import KINDS, LABELS, PACK, MakeModel

from t2ipal import Prediction, Recognizer, Unreadable
from t2ipal.benchmarks import index
from t2ipal.config import parse
from t2ipal.errors import UserError
from t2ipal.evaluation import stage as evaluation
from t2ipal.features import backbone, stage, store
from t2ipal.layout import Layout
from t2ipal.learning import models

HEAVY = ["torch", "open_clip", "pyarrow", "sklearn"]


def predicted(found: list[Prediction | Unreadable]) -> list[Prediction]:
    assert all(isinstance(one, Prediction) for one in found), found
    return [one for one in found if isinstance(one, Prediction)]


def test_the_package_is_light_until_a_recogniser_is_asked_for() -> None:
    code = f"import sys, t2ipal; print([n for n in {HEAVY} if n in sys.modules]); from t2ipal import Recognizer"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_head_scores_as_it_does_on_features(kind: str, make_model: MakeModel, photos: Path) -> None:
    directory = make_model(kind)
    names = ["a.png", "b.jpg", "c.webp"]
    found = predicted(Recognizer.load(directory, "cpu").predict([photos / name for name in names], batch_size=2))
    model = backbone.load(json.loads((directory / "model.json").read_text())["features"])
    global_, local, _ = model.encode_images([Image.open(photos / name) for name in names])
    expected = models.load(directory).scores(global_, local).numpy()
    assert np.abs(np.stack([one.scores for one in found]) - expected).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adapter", "ensemble"])
def test_predictions_are_those_of_the_evaluation_stage(
    kind: str, make_model: MakeModel, photos: Path, tmp_path: Path
) -> None:
    names = ["fox", "badger", "red panda", "cow", "dog"]
    directory = make_model(kind, names)
    labels = tmp_path / "labels.yaml"
    labels.write_text(json.dumps({"classes": names}))
    features = json.loads((directory / "model.json").read_text())["features"]
    config = parse(
        {
            "benchmark": {"name": "own", "path": str(photos), "labels": str(labels)},
            "features": {"backbone": f"local-dir:{PACK}", "batch_size": 3},
        }
    )
    layout = Layout(config)
    listed = layout.index("test")
    assert listed is not None
    index.build(listed.settings, tmp_path / "index.parquet")
    part = tmp_path / "part.parquet"
    stage.extract_images(layout.features("test", 0).settings, 0, part, "cpu", index=tmp_path / "index.parquet")
    evaluation.evaluate(
        layout.evaluation("zero-shot", 0).settings, directory, store.read([part]), tmp_path / "out", "f"
    )
    table = pq.read_table(tmp_path / "out" / "scores.parquet")
    stored = np.array(table["score"].to_pylist(), np.float32)

    recognizer = Recognizer.load(directory, "cpu")
    found = predicted(recognizer.predict(photos, batch_size=2))
    assert [Path(one.image).relative_to(photos).as_posix() for one in found] == table["key"].to_pylist()
    # The cache holds float16: scores differ by its rounding, and not at all once the features are rounded alike.
    assert np.abs(np.stack([one.scores for one in found]) - stored).max() < 5e-3
    tower = backbone.load_images(features)
    batches = [tower.encode_images([Image.open(one.image) for one in found[start : start + 3]]) for start in (0, 3, 6)]
    global_, local = (torch.cat([batch[column].half() for batch in batches]) for column in (0, 1))
    assert np.abs(models.load(directory).scores(global_, local).numpy() - stored).max() < 1e-5


def test_probabilities_and_labels_follow_from_calibration_and_thresholds(model: Path, photos: Path) -> None:
    recognizer = Recognizer.load(model, "cpu")
    values = json.loads((model / "model.json").read_text())["calibration"]
    for one in predicted(recognizer.predict(photos)):
        assert one.probabilities is not None
        odds = np.array(values["slope"]) * one.scores + values["intercept"]
        assert one.probabilities == pytest.approx(1 / (1 + np.exp(-odds)))
        above = [
            label
            for label, score, least in zip(LABELS, one.scores, values["thresholds"], strict=True)
            if score >= least
        ]
        assert one.labels == tuple(above)
    assert recognizer.thresholds == pytest.approx(values["thresholds"])


def test_a_model_that_has_learned_nothing_decides_nothing(make_model: MakeModel, photos: Path) -> None:
    recognizer = Recognizer.load(make_model(calibrated=False), "cpu")
    (found,) = predicted(recognizer.predict(photos / "a.png"))
    assert not recognizer.decides and found.labels is None and found.probabilities is None


@pytest.mark.parametrize("kind", ["prompts", "no heatmap", "adapter", "dual", "ensemble"])
def test_heatmaps_are_those_of_the_head(kind: str, make_model: MakeModel, photos: Path) -> None:
    (found,) = predicted(Recognizer.load(make_model(kind), "cpu").predict(photos / "b.jpg", heatmaps=True))
    assert found.heatmaps is not None and found.heatmaps.shape == (len(LABELS), 3, 3)
    assert found.heatmaps.sum(axis=(1, 2)) == pytest.approx(1, abs=1e-5)
    tower = backbone.load_images(json.loads((make_model(kind) / "model.json").read_text())["features"])
    local = tower.encode_images([Image.open(photos / "b.jpg")])[1]
    expected = models.load(make_model(kind)).heatmaps(local)  # type: ignore[attr-defined]
    assert np.abs(found.heatmaps - expected.reshape(found.heatmaps.shape).numpy()).max() < 1e-5


@pytest.mark.parametrize("kind", ["linear", "clip-adapter"])
def test_a_head_without_heatmaps_says_so(kind: str, make_model: MakeModel, photos: Path) -> None:
    recognizer = Recognizer.load(make_model(kind), "cpu")
    with pytest.raises(UserError, match=f"has no heatmaps, as a head of kind '{kind}'"):
        recognizer.stream(photos, heatmaps=True)


def test_all_ways_to_give_an_image_give_the_same(model: Path, photos: Path) -> None:
    recognizer, path = Recognizer.load(model, "cpu"), photos / "a.png"
    image = Image.open(path)
    array = np.asarray(image)
    ways = [str(path), path, path.read_bytes(), image, array, [path], (one for one in [array]), array[None]]
    scores = [predicted(recognizer.predict(way))[0].scores for way in ways]
    assert all(np.array_equal(scores[0], other) for other in scores[1:])
    assert [predicted(recognizer.predict(way))[0].image for way in (path, image, array)] == [str(path)] * 2 + [
        "image 0"
    ]


def test_a_folder_is_read_with_those_below_in_order(model: Path, photos: Path) -> None:
    (photos / "notes.txt").write_text("no image")
    (photos / ".hidden.png").write_bytes(b"")
    found = Recognizer.load(model, "cpu").predict(photos)
    assert [one.image for one in found] == sorted(
        str(path) for path in photos.rglob("*") if path.suffix not in ("", ".txt") and path.name[0] != "."
    )


def test_batches_and_workers_change_no_score(model: Path, photos: Path) -> None:
    recognizer = Recognizer.load(model, "cpu")
    whole = predicted(recognizer.predict(photos))
    for options in ({"batch_size": 1}, {"batch_size": 3}, {"batch_size": 2, "workers": 1}):
        other = predicted(recognizer.predict(photos, **options))
        assert [one.image for one in whole] == [one.image for one in other]
        assert np.abs(np.stack([one.scores for one in whole]) - np.stack([one.scores for one in other])).max() < 1e-5


def test_what_cannot_be_read_is_named_with_the_reason_in_its_place(model: Path, photos: Path) -> None:
    (photos / "no.jpg").write_bytes(b"no image")
    given = [
        photos / "no.jpg",
        photos / "a.png",
        photos / "absent.png",
        np.zeros((3, 8, 8), np.float32),
        np.zeros(4, np.uint8),
    ]
    found = Recognizer.load(model, "cpu").predict(given, batch_size=2)
    assert [type(one) for one in found] == [Unreadable, Prediction, Unreadable, Unreadable, Unreadable]
    reasons = [one.reason for one in found if isinstance(one, Unreadable)]
    assert reasons[0] == "it is no image, or one that is damaged at its start"
    assert reasons[1] == "there is no such file"
    assert reasons[2].startswith("an array of float32 is no image") and "shape (4,)" in reasons[3]
    assert found[0].image == str(photos / "no.jpg") and found[3].image == "image 3"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_every_mode_of_an_image_is_read_or_refused_alike_from_file_and_memory(mode: str, model: Path) -> None:
    recognizer = Recognizer.load(model, "cpu")
    values = np.tile(np.arange(0, 250, 5, dtype=np.uint8), (50, 1))
    image = Image.fromarray(values.astype(np.uint16) * 256 if mode == "I;16" else values)
    image = image if mode == "I;16" else image.convert(mode)
    (held,) = recognizer.predict(image)
    if mode == "F":
        assert isinstance(held, Unreadable) and "range is unknown" in held.reason
        return
    buffer = io.BytesIO()
    image.save(buffer, "TIFF")
    (filed,) = recognizer.predict(buffer.getvalue())
    assert isinstance(held, Prediction) and isinstance(filed, Prediction)
    assert np.abs(held.scores - filed.scores).max() < 1e-5


def test_an_empty_folder_and_what_is_no_image_are_refused(model: Path, tmp_path: Path) -> None:
    recognizer, empty = Recognizer.load(model, "cpu"), tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"folder .*empty' has no image \(\.bmp, \.gif"):
        recognizer.predict(empty)
    with pytest.raises(UserError, match="image 1 is of type dict"):
        recognizer.predict([np.zeros((8, 8), np.uint8), {}])  # type: ignore[list-item]
    with pytest.raises(UserError, match="image 0 is of type int"):
        recognizer.predict(3)  # type: ignore[arg-type]
    assert recognizer.predict([]) == []


def test_a_stream_takes_images_as_it_goes(model: Path) -> None:
    taken = []

    def images() -> Iterator[np.ndarray]:
        for number in range(100):
            taken.append(number)
            yield np.full((8, 8, 3), number, np.uint8)

    stream = Recognizer.load(model, "cpu").stream(images(), batch_size=2)
    for _ in range(4):
        next(stream)
    assert len(taken) <= 8


def test_three_hundred_classes_of_any_name_are_kept_apart(make_model: MakeModel, photos: Path) -> None:
    labels = [f'class {number}, "🦊"\n' for number in range(300)]
    recognizer = Recognizer.load(make_model(labels=labels), "cpu")
    (found,) = predicted(recognizer.predict(photos / "a.png"))
    assert recognizer.labels == tuple(labels) and found.scores.shape == (300,)
    assert found.labels and set(found.labels) <= set(labels)


def test_the_text_tower_is_not_loaded(model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the whole CLIP was loaded")

    monkeypatch.setattr(backbone, "_open", refuse)
    recognizer = Recognizer.load(model, "cpu")
    assert not hasattr(recognizer._encoder, "encode_text")
    assert len(recognizer.predict(photos)) == 7


def test_a_model_of_another_version_is_refused(model: Path) -> None:
    path = model / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(UserError, match="has format 99, this version of t2ipal reads format 2"):
        Recognizer.load(model)


def test_a_directory_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no model directory"):
        Recognizer.load(tmp_path / "absent")
    with pytest.raises(UserError, match=r"no trained model in .*: model\.json is missing"):
        Recognizer.load(tmp_path)


def test_a_damaged_calibration_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(UserError, match=r"key 'calibration' of model .* is damaged"):
        Recognizer.load(make_model(calibration={"slope": [1]}))


def test_a_transductive_model_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(UserError, match="standardises its scores over all images of a test set"):
        Recognizer.load(make_model("normalised"))


def _features(model: Path, **changes: object) -> None:
    path = model / "model.json"
    description = json.loads(path.read_text())
    path.write_text(json.dumps({**description, "features": {**description["features"], **changes}}))


def test_the_packs_clip_is_found_wherever_the_model_is_used(model: Path) -> None:
    _features(model, backbone="local-dir:src/elsewhere/clip")
    assert Recognizer.load(model, "cpu").labels == LABELS


def test_missing_weights_of_the_clip_are_one_sentence_and_can_be_named(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(PACK, other)
    expected = predicted(Recognizer.load(model, "cpu").predict(photos))[0].scores
    _features(model, backbone=f"local-dir:{tmp_path / 'gone'}", model_identity="sha256:0123456789abcdef")
    with pytest.raises(UserError, match=r"belongs to the CLIP in .*gone, which is not there; name the directory"):
        Recognizer.load(model)
    with pytest.raises(UserError, match=r"belongs to the CLIP sha256:0123456789abcdef, not to"):
        Recognizer.load(model, backbone=other)
    _features(model, model_identity=backbone.clip_identity(f"local-dir:{other}", None))
    found = predicted(Recognizer.load(model, "cpu", backbone=other).predict(photos))[0].scores
    assert np.array_equal(found, expected)
    (other / "open_clip_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"cannot be used without its CLIP: .*open_clip_model.safetensors is missing"):
        Recognizer.load(model, backbone=other)


def test_a_clip_whose_features_are_of_another_size_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(UserError, match="its features are of another size"):
        Recognizer.load(make_model(size=64), "cpu")


def test_a_device_that_is_not_there_is_refused(model: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="device 'cuda' is not there"):
        Recognizer.load(model, "cuda")
