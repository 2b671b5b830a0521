"""How fast images are drawn and how large they are: as measured on this machine, else as a table has it."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from t2ipal.settings import SynthesisSettings
from t2ipal.synthesis.donors import manifest

# Settings that decide how long an image takes and how large it is.
_DECIDING = (
    *("model_identity", "lora_identity", "scheduler", "steps", "guidance", "height", "width", "dtype", "batch_size"),
    *("attention_slicing", "vae_tiling", "compile", "image_format"),
)
# Bytes per pixel of lossless photographs, where nothing is measured: PNG 1.8, WebP 1.3.
_BYTES_PER_PIXEL = {"png": 1.8, "webp": 1.3}
# Caption, record and tar headers of an image.
_BYTES_BESIDE = 4096


@dataclass(frozen=True)
class Rate:
    """Images per second of one job, the device, and where the number is from."""

    images_per_second: float
    device: str
    origin: str


@dataclass(frozen=True)
class Measured:
    """What finished shards of the same settings tell."""

    rate: Rate | None
    bytes_per_image: float | None


def _alike(settings: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(settings.get(key) for key in _DECIDING)


def measured(results: Path, settings: Mapping[str, Any]) -> Measured:
    """The median over all shards below ``results`` that were drawn like ``settings`` (of a synthesis unit) say."""
    rates: dict[str, list[float]] = {}
    sizes: list[float] = []
    for shard in sorted(path.with_suffix(".tar") for path in results.glob("synthesis/*/shard-*.json")):
        facts = manifest(shard)
        drawn_with = facts.get("settings")
        if not isinstance(drawn_with, dict) or _alike(drawn_with) != _alike(settings):
            continue
        if facts.get("images_per_second"):
            rates.setdefault(str(facts.get("device")), []).append(float(facts["images_per_second"]))
        if shard.is_file() and facts.get("count"):
            sizes.append(shard.stat().st_size / facts["count"])
    rate = None
    if rates:
        device = max(rates, key=lambda name: len(rates[name]))
        origin = f"measured on {len(rates[device])} shards in {results}/synthesis"
        rate = Rate(statistics.median(rates[device]), device, origin)
    return Measured(rate, statistics.median(sizes) if sizes else None)


def published(synthesis: SynthesisSettings) -> Rate | None:
    """What the table beside this module has for the model; scaled to steps and pixels; None if it has nothing."""
    rows = yaml.safe_load(files("t2ipal.budget").joinpath("throughput.yaml").read_text(encoding="utf-8"))
    for row in rows:
        if re.search(row["models"], synthesis.model):
            scale = row["pixels"] / (synthesis.height * synthesis.width)
            speed = row["steps_per_second"] / synthesis.steps * min(scale, 1.0)
            return Rate(
                speed, row["device"], f"{row['source']}; scaled to {synthesis.steps} steps and the image's size"
            )
    return None


def expected_bytes(synthesis: SynthesisSettings) -> float:
    """Bytes per image in a shard, where none is measured."""
    pixels = synthesis.height * synthesis.width
    return pixels * _BYTES_PER_PIXEL[synthesis.image_format] + _BYTES_BESIDE
