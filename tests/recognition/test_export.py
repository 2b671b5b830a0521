"""``t2ipal export``: the round trip, the card, the ONNX file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_model
from tests.recognition.conftest import KINDS, LABELS, PACK, MakeModel, head_of

from t2ipal import Prediction, Recognizer, cli
from t2ipal.errors import UserError
from t2ipal.features.backbone import ImageEncoder, load_images
from t2ipal.io import write_json
from t2ipal.recognition import card, saved
from t2ipal.recognition.export import export
from t2ipal.recognition.graph import write_onnx
from t2ipal.recognition.provenance import Provenance
from t2ipal.settings import FeatureSettings

ROOT = Path(__file__).resolve().parents[2]


def _scores(recognizer: Recognizer, images: Any) -> np.ndarray[Any, Any]:
    return np.stack([one.scores for one in recognizer.predict(images) if isinstance(one, Prediction)])


def _header(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_predicts_the_same_once_exported(
    kind: str, make_model: MakeModel, photos: Path, tmp_path: Path
) -> None:
    directory, output = make_model(kind), tmp_path / "out" / "exported"
    export(directory, output)
    assert sorted(path.name for path in output.iterdir()) == [
        "README.md", "labels.json", "model.json", "model.safetensors",
    ]  # fmt: skip
    assert np.array_equal(
        _scores(Recognizer.load(output, "cpu"), photos), _scores(Recognizer.load(directory, "cpu"), photos)
    )
    assert list(output.parent.iterdir()) == [output]


@pytest.mark.slow
def test_with_its_image_tower_it_needs_nothing_but_its_directory(model: Path, photos: Path, tmp_path: Path) -> None:
    """In a new process, at another place, with a package that has no pack and without a network or a cache."""
    path = model / "model.json"
    clip = tmp_path / "clip"
    shutil.copytree(PACK, clip)
    description = json.loads(path.read_text())
    description["features"]["backbone"] = f"local-dir:{clip}"
    write_json(path, description)
    export(model, tmp_path / "exported", with_backbone=True)
    expected = _scores(Recognizer.load(model, "cpu"), photos)
    moved = tmp_path / "elsewhere" / "recogniser"
    moved.parent.mkdir()
    (tmp_path / "exported").rename(moved)
    for gone in (model, clip):
        shutil.rmtree(gone)
    package = tmp_path / "package"
    shutil.copytree(ROOT / "src", package, ignore=shutil.ignore_patterns("models", "__pycache__", "*.egg-info"))
    code = (
        "import sys, json, t2ipal; from t2ipal import Recognizer; r = Recognizer.load(sys.argv[1], 'cpu')\n"
        "assert t2ipal.__file__.startswith(sys.argv[3]), t2ipal.__file__\n"
        "print(json.dumps([[str(p.image), p.scores.tolist(), p.labels] for p in r.predict(sys.argv[2])]))"
    )
    # With as many threads as here: another number adds up in another order.
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    offline = {"HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(package), **offline, **threads}
    command = [sys.executable, "-c", code, str(moved), str(photos), str(package)]
    shown = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert shown.returncode == 0, shown.stderr
    found = json.loads(shown.stdout)
    assert np.abs(np.array([scores for _, scores, _ in found]) - expected).max() < 1e-6
    assert [name for name, *_ in found] == sorted(name for name, *_ in found) and len(found) == 7


def test_the_image_tower_goes_without_the_text_tower_and_as_small_as_it_was(model: Path, tmp_path: Path) -> None:
    export(model, tmp_path / "exported", with_backbone=True)
    stored = load_file(tmp_path / "exported" / saved.CLIP_WEIGHTS)
    own = load_file(PACK / "open_clip_model.safetensors")
    assert set(stored) == {name for name in own if name.startswith("visual.")}
    assert all(torch.equal(value, own[name]) and value.dtype == own[name].dtype for name, value in stored.items())


def test_a_damaged_image_tower_is_refused(model: Path, tmp_path: Path) -> None:
    export(model, tmp_path / "exported", with_backbone=True)
    weights = tmp_path / "exported" / saved.CLIP_WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"clip/open_clip_model\.safetensors is missing or damaged"):
        Recognizer.load(tmp_path / "exported")


def test_an_exported_directory_can_be_exported_again(model: Path, photos: Path, tmp_path: Path) -> None:
    export(model, tmp_path / "first", with_backbone=True)
    export(tmp_path / "first", tmp_path / "second", with_backbone=True)
    one, other = (Recognizer.load(tmp_path / name, "cpu") for name in ("first", "second"))
    assert np.array_equal(_scores(one, photos), _scores(other, photos))


def test_nothing_is_overwritten_or_left_behind(model: Path, make_model: MakeModel, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        export(model, tmp_path / "there")
    with pytest.raises(UserError, match="standardises its scores"):
        export(make_model("normalised"), tmp_path / "fails" / "out")
    assert not (tmp_path / "fails").exists()
    (tmp_path / "empty").mkdir()
    export(model, tmp_path / "empty")
    assert (tmp_path / "empty" / "README.md").is_file()


def test_the_list_of_labels_keeps_order_and_any_name(make_model: MakeModel, tmp_path: Path) -> None:
    labels = [f'class {number}, "🦊" | <b>`x`\n' for number in range(300)]
    export(make_model(labels=labels), tmp_path / "exported")
    listed = json.loads((tmp_path / "exported" / "labels.json").read_text(encoding="utf-8"))
    assert [entry["label"] for entry in listed] == labels
    assert all(set(entry) == {"label", "prompt", "slope", "intercept", "threshold"} for entry in listed)
    text = (tmp_path / "exported" / "README.md").read_text(encoding="utf-8")
    assert "<b>" not in text
    rows = [line for line in text.splitlines() if line.startswith("| class ")]
    assert len(rows) == 301 and all(line.replace("\\|", "").count("|") == 4 for line in rows)


def test_a_text_cannot_break_out_of_its_cell() -> None:
    assert card.cell("a | b\n<i>`c`") == "a \\| b &lt;i&gt;&#96;c&#96;"


def test_a_card_without_a_run_says_what_is_not_known(model: Path, tmp_path: Path) -> None:
    export(model, tmp_path / "exported", name="Foxes", licence="cc-by-4.0")
    text = (tmp_path / "exported" / "README.md").read_text(encoding="utf-8")
    assert "# Foxes" in text and "Not measured" in text and "data | not known" in text
    header = _header(tmp_path / "exported")
    assert header["license"] == "cc-by-4.0" and "model-index" not in header


def test_a_model_that_has_learned_nothing_has_a_card_too(make_model: MakeModel, tmp_path: Path) -> None:
    settings = {"method": "zero-shot", "data": {}}
    export(make_model(calibrated=False, settings=settings, method="zero-shot"), tmp_path / "exported")
    text = (tmp_path / "exported" / "README.md").read_text(encoding="utf-8")
    assert "It has learned nothing" in text and "There are none" in text


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adapter", "memory", "clip-adapter", "ensemble"])
def test_onnxruntime_computes_what_the_recogniser_does(
    kind: str, make_model: MakeModel, photos: Path, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    directory, output = make_model(kind), tmp_path / "exported"
    export(directory, output, onnx=True)
    recognizer = Recognizer.load(output, "cpu")
    files = sorted(photos.rglob("*.*"))
    localises = kind not in ("linear", "memory", "clip-adapter")
    expected = [one for one in recognizer.predict(files, heatmaps=localises) if isinstance(one, Prediction)]
    images = np.stack([np.asarray(recognizer.view(file)) for file in files])
    session = onnxruntime.InferenceSession(str(output / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    assert names == ["scores", "probabilities", *(["heatmaps"] if localises else [])]
    for batch in (images, images[:1]):
        found = dict(zip(names, session.run(names, {"images": batch}), strict=True))
        for name in names:
            wanted = np.stack([getattr(one, name) for one in expected[: len(batch)]])
            assert found[name].shape == wanted.shape and np.abs(found[name] - wanted).max() < 1e-4, name
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["t2ipal.labels"]) == list(LABELS)
    assert json.loads(metadata["t2ipal.thresholds"]) == pytest.approx(recognizer.thresholds)
    assert json.loads(metadata["t2ipal.input"]) == {"side": 96, "resize": "crop"}


def _clip(folder: Path, vision: dict[str, Any], width: int) -> ImageEncoder:
    """The image tower of a CLIP of random weights."""
    folder.mkdir()
    text = {"context_length": 16, "vocab_size": 64, "width": 32, "heads": 2, "layers": 2}
    config = {"embed_dim": width, "vision_cfg": vision, "text_cfg": text, "custom_text": True}
    write_json(folder / "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": {}})
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_model(model, str(folder / "open_clip_model.safetensors"))
    return load_images(FeatureSettings(backbone=f"local-dir:{folder}").model_dump(mode="json"))


def _pixels(side: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (4, side, side, 3), dtype=np.uint8)


@pytest.mark.slow
def test_a_vit_is_written_as_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    vision = {"image_size": 32, "patch_size": 8, "layers": 3, "width": 32, "head_width": 8}
    encoder = _clip(tmp_path / "clip", vision, 24)
    worst = write_onnx(tmp_path / "vit.onnx", encoder, head_of("adapter", size=24), None, _pixels(32))
    assert set(worst) == {"scores", "heatmaps"} and max(worst.values()) < 1e-4


@pytest.mark.slow
def test_a_tower_that_cannot_be_expressed_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    vision = {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear", "image_size": 64}
    encoder = _clip(tmp_path / "clip", vision, 24)
    with pytest.raises(UserError, match=r"cannot express the image tower .* \(TimmModel: "):
        write_onnx(tmp_path / "timm.onnx", encoder, head_of("adapter", size=24), None, _pixels(64))


def test_onnx_without_its_packages_is_one_sentence(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", str(model), str(tmp_path / "out"), "--onnx"])
    assert ended.value.code == 1 and "pip install 't2ipal[onnx]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_tower_in_half_precision_is_not_written_as_onnx(model: Path, tmp_path: Path) -> None:
    path = model / "model.json"
    description = json.loads(path.read_text())
    description["features"]["precision"] = "bfloat16"
    write_json(path, description)
    with pytest.raises(UserError, match="--onnx is for image towers in float32"):
        export(model, tmp_path / "out", onnx=True)


def test_a_model_outside_of_a_run_has_no_provenance(model: Path) -> None:
    found = Provenance.of(model, json.loads((model / "model.json").read_text()))
    assert found.captions is None and found.synthesis is None and found.evaluations == []


def test_an_image_that_cannot_be_read_has_no_view(model: Path, tmp_path: Path) -> None:
    recognizer = Recognizer.load(model, "cpu")
    assert recognizer.view(Image.new("RGB", (200, 90))).size == (96, 96)
    with pytest.raises(UserError, match="an image cannot be read: there is no such file"):
        recognizer.view(tmp_path / "absent.png")
