"""The presets of config/ say everything about drawing, and a pipeline of their kind takes it."""

from pathlib import Path

import pytest
import yaml

from t2ipal.config import load as load_config
from t2ipal.settings import SynthesisSettings
from t2ipal.synthesis.generator import load

PRESETS = "sd15", "sd-turbo", "sdxl-turbo"


def overlay(name: str) -> Path:
    return Path(__file__).parents[2] / "config" / f"{name}.yaml"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_every_key_of_the_section_and_nothing_else(name: str) -> None:
    document = yaml.safe_load(overlay(name).read_text())
    assert set(document) == {"synthesis"}
    assert list(document["synthesis"]) == list(SynthesisSettings.model_fields)
    assert load_config(overlay(name)).synthesis == SynthesisSettings(**document["synthesis"])


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_draws_with_a_small_pipeline_in_place_of_its_own(name: str, pipeline_dir: Path) -> None:
    chosen = load_config(overlay(name)).synthesis
    small = {"model": f"local-dir:{pipeline_dir}", "variant": None, "height": 16, "width": 16, "dtype": "float32"}
    generator = load(chosen.model_copy(update=small).model_dump(mode="json"), "cpu")
    (image,) = generator.draw(["a dog"], [1])
    assert 0 <= image.min() < image.max() <= 1


def test_few_step_presets_run_the_denoiser_without_guidance() -> None:
    turbo = [load_config(overlay(name)).synthesis for name in PRESETS[1:]]
    assert all(settings.guidance <= 1 and settings.steps <= 4 and not settings.negative_prompt for settings in turbo)
