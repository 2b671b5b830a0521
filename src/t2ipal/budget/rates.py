"""How fast images are drawn and how large they are: as measured on this machine, else as a table has it."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from t2ipal.io import read_json
from t2ipal.settings import SynthesisSettings

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


def _manifests(results: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    for path in sorted(results.glob("synthesis/*/shard-*.json")):
        try:
            found = read_json(path)
        except (OSError, ValueError):
            continue
        if isinstance(found, dict) and isinstance(found.get("settings"), dict):
            yield path, found


def measured(results: Path, settings: Mapping[str, Any]) -> Measured:
    """The median over all shards below ``results`` that were drawn like ``settings`` (of a synthesis unit) say."""
    rates: dict[str, list[float]] = {}
    sizes: list[float] = []
    for path, manifest in _manifests(results):
        if _alike(manifest["settings"]) != _alike(settings):
            continue
        if manifest.get("images_per_second"):
            rates.setdefault(str(manifest.get("device")), []).append(float(manifest["images_per_second"]))
        shard = path.with_suffix(".tar")
        if shard.is_file() and manifest.get("count"):
            sizes.append(shard.stat().st_size / manifest["count"])
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
