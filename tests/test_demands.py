"""What jobs ask a cluster for."""

from pathlib import Path

import pytest
import yaml

from t2ipal.demands import encoder_memory, synthesis_memory, synthesis_minutes
from t2ipal.settings import SynthesisSettings

ROOT = Path(__file__).resolve().parents[1]


def synthesis(name: str) -> SynthesisSettings:
    return SynthesisSettings(**yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())["synthesis"])


def test_a_downloaded_model_asks_for_the_memory_of_its_weights() -> None:
    own, turbo = SynthesisSettings(), synthesis("sdxl-turbo")
    assert synthesis_memory(own) < synthesis_memory(turbo)
    assert synthesis_memory(turbo) < synthesis_memory(turbo.model_copy(update={"dtype": "float32"}))


def test_time_follows_the_number_of_images_and_the_published_speed() -> None:
    sd15 = synthesis("sd15")
    few, many = (synthesis_minutes(sd15, images) for images in (1000, 8000))
    # 19 steps/s at 20 steps: 0.95 images/s; three times that and half an hour of loading.
    assert few == 30 + int(3 * 1000 / 0.95 / 60)
    assert many == 30 + int(3 * 8000 / 0.95 / 60)


def test_half_a_day_where_no_speed_is_known() -> None:
    assert synthesis_minutes(SynthesisSettings(), 100) == 720


@pytest.mark.parametrize("decoders", [0, 8])
def test_an_encoder_asks_for_each_process_beside_it(decoders: int) -> None:
    assert encoder_memory("local-dir:x", decoders) == 4000 + 400 * decoders
    assert encoder_memory("RN50", decoders) == 8000 + 400 * decoders
