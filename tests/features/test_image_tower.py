"""The image tower that is loaded alone is that of the whole model, to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file, save_model

from t2ipal.errors import UserError
from t2ipal.features import backbone, image_tower
from t2ipal.settings import FeatureSettings

PACK = Path(__file__).resolve().parents[2] / "src/t2ipal/pack/models/clip"
TEXT = {"context_length": 16, "vocab_size": 64, "width": 32, "heads": 2, "layers": 2}
VISION: dict[str, dict[str, Any]] = {
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8},
    "vit": {"image_size": 32, "patch_size": 8, "layers": 3, "width": 32, "head_width": 8},
    "timm vit": {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "timm_proj": None, "image_size": 224},
    "eva": {"timm_model_name": "eva02_tiny_patch14_224", "timm_pool": "token", "timm_proj": None, "image_size": 224},
    "convnext": {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear", "image_size": 64},
}


def _model(folder: Path, vision: dict[str, Any]) -> Path:
    """A CLIP of random weights in open_clip's layout."""
    folder.mkdir()
    timm = "timm_model_name" in vision
    width = 192 if vision.get("timm_proj", "none") is None else 24
    config = {"embed_dim": width, "vision_cfg": vision, "text_cfg": TEXT, **({"custom_text": True} if timm else {})}
    document = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "interpolation": "bilinear"}}
    (folder / "open_clip_config.json").write_text(json.dumps(document))
    for file in PACK.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_model(model, str(folder / "open_clip_model.safetensors"))
    return folder


def _settings(folder: Path, **changes: Any) -> dict[str, Any]:
    return FeatureSettings(backbone=f"local-dir:{folder}", **changes).model_dump(mode="json")


@pytest.mark.parametrize("name", VISION)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_computes_what_the_whole_model_computes(name: str, precision: str, tmp_path: Path) -> None:
    settings = _settings(_model(tmp_path / "clip", VISION[name]), precision=precision)
    whole, alone = backbone.load(settings), backbone.load_images(settings)
    pixels = torch.rand(3, 3, whole.input_size, whole.input_size)
    for one, other in zip(whole.encode_pixels(pixels)[:2], alone.encode_pixels(pixels)[:2], strict=True):
        # To rounding, which may differ with where the weights lie in memory.
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 if precision == "float32" else 1e-2)
    assert (whole.identity, whole.preprocessing) == (alone.identity, alone.preprocessing)
    assert str(whole.transform) == str(alone.transform)


@pytest.mark.parametrize("name", ["resnet", "vit", "convnext"])
def test_no_text_tower_is_built_or_needed(name: str, tmp_path: Path) -> None:
    folder = _model(tmp_path / "clip", VISION[name])
    path = folder / "open_clip_model.safetensors"
    before = backbone.load_images(_settings(folder))
    save_file({key: value for key, value in load_file(path).items() if key.startswith("visual.")}, path)
    after = backbone.load_images(_settings(folder))
    pixels = torch.rand(1, 3, before.input_size, before.input_size)
    torch.testing.assert_close(before.encode_pixels(pixels)[0], after.encode_pixels(pixels)[0], rtol=0, atol=1e-5)
    assert not any("text" in key or "token" in key for key in after.visual.state_dict() if key.startswith("t"))


def test_another_input_size_is_interpolated_alike(tmp_path: Path) -> None:
    settings = _settings(_model(tmp_path / "clip", VISION["vit"]), input_size=64)
    pixels = torch.rand(2, 3, 64, 64)
    found = [load(settings).encode_pixels(pixels)[1] for load in (backbone.load, backbone.load_images)]
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)


def test_weights_of_other_names_are_left_to_open_clip(tmp_path: Path) -> None:
    folder = _model(tmp_path / "clip", VISION["resnet"])
    path = tmp_path / "renamed.safetensors"
    state = load_file(folder / "open_clip_model.safetensors")
    save_file({key.replace("visual.", "tower."): value for key, value in state.items()}, path)
    assert image_tower.alone(f"local-dir:{folder}", None, "fp32", path) is None


def test_missing_weights_are_one_sentence(tmp_path: Path) -> None:
    folder = _model(tmp_path / "clip", VISION["resnet"])
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"open_clip_model\.safetensors is missing"):
        backbone.load_images(_settings(folder))
