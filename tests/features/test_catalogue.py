"""What is read from open_clip's files is what the imported open_clip says."""

from __future__ import annotations

import subprocess
import sys

import open_clip
import pytest

from t2ipal.features import catalogue


def test_models_and_their_configurations_are_open_clips() -> None:
    assert set(catalogue.models()) == set(open_clip.list_models())
    for name in ("RN50", "ViT-L-14-336-quickgelu", "ViT-B-16-SigLIP", "coca_ViT-B-32"):
        assert catalogue.config(name) == open_clip.get_model_config(name)
    assert catalogue.config("RN5000") is None


def test_checkpoints_and_their_activations_are_open_clips() -> None:
    expected = {
        name: {
            tag: bool(open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False))
            for tag in open_clip.list_pretrained_tags_by_model(name)
        }
        for name in dict.fromkeys(model for model, _ in open_clip.list_pretrained())
    }
    assert catalogue.checkpoints() == expected
    assert catalogue.checkpoints()["RN50"]["openai"]


@pytest.mark.parametrize("tag", ["laion2b_s34b_b79k", "LAION2B-s34B-b79K"])
def test_tags_are_compared_as_open_clip_compares_them(tag: str) -> None:
    assert open_clip.is_pretrained_cfg("ViT-B-32", tag)
    assert catalogue.clean(tag) in catalogue.checkpoints()["ViT-B-32"]


def test_every_twin_is_a_model() -> None:
    for name in catalogue.models():
        if name.endswith("-quickgelu"):
            assert catalogue.twin(name) in catalogue.models()
            assert catalogue.twin(catalogue.twin(name)) == name


def test_nothing_slow_is_imported() -> None:
    code = (
        "import sys; from t2ipal.features import catalogue, towers; catalogue.checkpoints();"
        "assert towers.problem('RN50-quickgelu', 'openai') is None;"
        "print([name for name in ('torch', 'open_clip', 'numpy', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
