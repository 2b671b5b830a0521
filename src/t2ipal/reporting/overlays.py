"""Class-wise heatmaps of a model on a few test images, computed from the cached features."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from t2ipal.benchmarks.base import ImageSplit
from t2ipal.errors import UserError
from t2ipal.io import read_json
from t2ipal.reporting.examples import evenly, first_of_each
from t2ipal.settings import BenchmarkSettings

IMAGES = 8
MAPS_PER_IMAGE = 3


@dataclass(frozen=True)
class Localisation:
    """A test image, the classes it shows that are drawn, and their heatmaps [classes, rows, columns]."""

    key: str
    image: Image.Image
    classes: tuple[str, ...]
    heatmaps: NDArray[np.float32]


def _metadata(part: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pq.read_schema(part).metadata[b"t2ipal"])
    return found


def _labels(parts: Sequence[Path]) -> list[tuple[str, list[str]]]:
    """(key, labels) of every test image, in file order, without reading features."""
    table = pa.concat_tables(pq.read_table(part, columns=["key", "labels"]) for part in parts)
    return list(zip(table["key"].to_pylist(), table["labels"].to_pylist(), strict=True))


def _local(parts: Sequence[Path], keys: Sequence[str], positions: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Local features [N, L, D] (float32) and lengths [N] (int64) of ``keys``, in their order."""
    columns, wanted = ["key", "local", "length"], pc.field("key").isin(list(keys))
    # Read ahead, a part would be in RAM as a whole.
    pieces = {"columns": columns, "filters": wanted, "pre_buffer": False, "use_threads": False}
    table = pa.concat_tables(pq.read_table(part, **pieces) for part in parts)
    found = table["key"].to_pylist()
    flat = table["local"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    order = [found.index(key) for key in keys]
    local = flat.astype(np.float32).reshape(len(found), positions, -1)[order]
    return local, table["length"].to_numpy().astype(np.int64)[order]


def model_heatmaps(model: Path, local: NDArray[Any], length: NDArray[Any]) -> NDArray[np.float32]:
    """Heatmaps [N, C, L] of the model in directory ``model`` for local features [N, L, D] and lengths [N]."""
    from t2ipal.learning import models
    from t2ipal.learning.heads import Head

    head = models.load(model)
    if not isinstance(head, Head):
        raise UserError(f"model {model} has no class-wise heatmaps; choose a method with prompts")
    return np.asarray(head.heatmaps(local, length), dtype=np.float32)


@cache
def _test_split(settings: BenchmarkSettings) -> tuple[ImageSplit, dict[str, int]]:
    """The test images, and the place of each key; once, as annotations are read for it and two sections ask."""
    from t2ipal import benchmarks

    split = benchmarks.load(settings).split("test")
    return split, {key: position for position, key in enumerate(split.keys)}


def images(settings: BenchmarkSettings, keys: Sequence[str]) -> list[Image.Image]:
    """The test images named by ``keys``, in their order."""
    split, index = _test_split(settings)
    return [split.image(index[key]) for key in keys]


def localisations(model: Path, parts: Sequence[Path], settings: BenchmarkSettings) -> list[Localisation]:
    """The first test image of each of several classes, with the heatmaps of up to three classes that it shows.

    Args:
        model: directory of a trained model (``model.json`` names its labels).
        parts: the Parquet parts of the test features, in order.
        settings: the benchmark, which renders or reads the images.

    Raises:
        UserError: a file is missing or damaged, or the features carry no grid of positions.
    """
    try:
        names: list[str] = read_json(model / "model.json")["labels"]
        rows, columns = _metadata(parts[0])["grid"]
        labels = dict(_labels(parts))
        chosen = first_of_each(labels.items(), evenly(names, IMAGES))
        keys = [key for _, key in chosen]
        if not keys:
            return []
        local, length = _local(parts, keys, rows * columns)
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise UserError(f"heatmaps need {model} and {parts[0].parent}, which cannot be read: {error}") from None
    heatmaps = model_heatmaps(model, local, length).reshape(len(keys), len(names), rows, columns)
    found = []
    for (name, key), image, maps in zip(chosen, images(settings, keys), heatmaps, strict=True):
        others = [label for label in names if label in labels[key] and label != name]
        shown = (name, *others)[:MAPS_PER_IMAGE]
        found.append(Localisation(key, image, shown, maps[[names.index(label) for label in shown]]))
    return found
