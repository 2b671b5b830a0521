from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2ipal.errors import UserError
from t2ipal.features import backbone
from t2ipal.settings import FeatureSettings

PACK = Path(__file__).resolve().parents[2] / "src/t2ipal/pack/models/clip"


def _settings(directory: Path) -> dict[str, object]:
    return FeatureSettings(backbone=f"local-dir:{directory}").model_dump()


@pytest.fixture(scope="module")
def pack() -> backbone.Backbone:
    return backbone.load(_settings(PACK))


def test_the_packs_clip_loads_as_any_local_directory_does(pack: backbone.Backbone) -> None:
    global_, local, grid = pack.encode_images([Image.new("RGB", (64, 64), "red"), Image.new("L", (50, 80))])
    assert global_.shape == (2, 128) and local.shape == (2, 9, 128) and grid == (3, 3)
    assert torch.allclose(global_.norm(dim=-1), torch.ones(2), atol=1e-5)
    assert pack.preprocessing == "crop96"


def test_pixels_prepared_elsewhere_are_encoded_alike(pack: backbone.Backbone) -> None:
    images = [Image.new("RGB", (64, 80), colour) for colour in ("red", "green")]
    transform = pickle.loads(pickle.dumps(pack.transform))
    found = pack.encode_pixels(torch.stack([transform(image) for image in images]))
    assert all(torch.equal(*pair) for pair in zip(found[:2], pack.encode_images(images)[:2], strict=True))


def test_text_features_are_open_clips_own(pack: backbone.Backbone) -> None:
    texts = ["a dog", "a photo of a cat on a mat"]
    global_, _, length = pack.encode_text(texts)
    assert torch.allclose(global_, pack.model.encode_text(pack.tokenizer(texts), normalize=True), atol=1e-5)
    assert length.tolist() == [4, 11]


def test_batches_do_not_change_features(pack: backbone.Backbone) -> None:
    images = [Image.fromarray(np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8)) for i in range(5)]
    together = pack.encode_images(images)[0]
    alone = torch.cat([pack.encode_images([image])[0] for image in images])
    assert torch.allclose(together, alone, atol=1e-5)


def test_training_and_extraction_preprocess_alike(pack: backbone.Backbone) -> None:
    from t2ipal.openmoji.scenes import render, sample_scene
    from t2ipal.pack.clip import preprocess

    pixels = render(sample_scene(np.random.default_rng(0), "train"))
    difference = (preprocess([pixels])[0] - pack.transform(Image.fromarray(pixels))).abs()
    # PIL resizes in two passes of 8 bits each and clips between them: it differs by rounding, and at hard edges.
    assert difference.mean() < 0.005
    assert (difference > 0.03).float().mean() < 0.01


@pytest.mark.parametrize("missing", ["open_clip_config.json", "open_clip_model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    shutil.copytree(PACK, tmp_path / "clip")
    (tmp_path / "clip" / missing).unlink()
    with pytest.raises(UserError, match=missing):
        backbone.load(_settings(tmp_path / "clip"))


def test_damaged_weights_are_one_sentence(tmp_path: Path) -> None:
    shutil.copytree(PACK, tmp_path / "clip")
    weights = tmp_path / "clip" / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cannot load features\.backbone"):
        backbone.load(_settings(tmp_path / "clip"))


def test_an_unknown_model_name_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"features\.backbone: open_clip has no model 'RN5000'; set RN50"):
        backbone.load(FeatureSettings(backbone="RN5000").model_dump())
