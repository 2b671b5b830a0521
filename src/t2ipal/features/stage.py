"""Stage 3: features of synthetic shards, of captions, and of a benchmark's images; one Parquet part per job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from t2ipal import benchmarks
from t2ipal.features import store
from t2ipal.features.backbone import Backbone, load
from t2ipal.progress import Progress
from t2ipal.sequences import batched
from t2ipal.settings import BenchmarkSettings
from t2ipal.shards import check, samples

Item = tuple[str, list[str], list[str], Image.Image]


def _describe(settings: dict[str, Any], backbone: Backbone, grid: Sequence[int] | None, **more: Any) -> dict[str, Any]:
    return {
        "source": settings["source"],
        "backbone": backbone.name,
        "identity": backbone.identity,
        "preprocessing": backbone.preprocessing,
        "grid": list(grid) if grid else None,
        **more,
    }


def _image_rows(backbone: Backbone, items: Iterable[Item], size: int, progress: Progress) -> Iterator[store.Rows]:
    for batch in batched(items, size):
        keys, labels, unknown, images = (list(column) for column in zip(*batch, strict=True))
        global_, local, _ = backbone.encode_images(images)
        length = np.full(len(keys), local.shape[1], dtype=np.int16)
        progress.advance(len(keys))
        yield store.Rows(keys, labels, unknown, global_.numpy(), local.numpy(), length)


def _write_images(
    settings: dict[str, Any], items: Iterable[Item], total: int, output: Path, device: str, protocol: str | None = None
) -> None:
    backbone = load(settings, device)
    more = {"protocol": f"{protocol}/{backbone.preprocessing}"} if protocol else {}
    blank = Image.new("RGB", (backbone.input_size, backbone.input_size))
    _, _, grid = backbone.encode_images([blank])
    with Progress(f"features of {settings['source']} images", total, "images") as progress:
        rows = _image_rows(backbone, items, settings["batch_size"], progress)
        store.write(output, rows, _describe(settings, backbone, grid, **more))


def extract_shard(settings: dict[str, Any], shard: Path, output: Path, device: str) -> None:
    """Features of one synthetic shard.

    Raises:
        UserError: the shard is damaged.
    """
    check(shard)
    items: Iterator[Item] = ((sample.key, list(sample.labels), [], sample.image()) for sample in samples(shard))
    _write_images(settings, items, sum(1 for _ in samples(shard)), output, device)


def extract_images(settings: dict[str, Any], part: int, output: Path, device: str) -> None:
    """Features of part ``part`` of the benchmark's split that ``settings['source']`` names."""
    benchmark = benchmarks.load(BenchmarkSettings.model_validate(settings["benchmark"]))
    split = benchmark.split(settings["source"])
    size = settings["part_size"]
    chosen = range(part * size, min((part + 1) * size, len(split.keys)))
    items = ((split.keys[i], split.labels[i], split.unknown[i], split.image(i)) for i in chosen)
    _write_images(settings, items, len(chosen), output, device, protocol=split.protocol)


def extract_captions(settings: dict[str, Any], captions: Path, part: int, output: Path, device: str) -> None:
    """Features of part ``part`` of the captions: end-of-text embeddings and token embeddings."""
    size = settings["part_size"]
    table = pq.read_table(captions, columns=["caption_id", "text", "labels"]).slice(part * size, size)
    backbone = load(settings, device)
    with Progress("features of captions", table.num_rows, "captions") as progress:
        rows = _caption_rows(backbone, table.to_pylist(), settings["batch_size"], progress)
        store.write(output, rows, _describe(settings, backbone, None))


def _caption_rows(
    backbone: Backbone, records: list[dict[str, Any]], size: int, progress: Progress
) -> Iterator[store.Rows]:
    for batch in batched(records, size):
        global_, local, length = backbone.encode_text([record["text"] for record in batch])
        progress.advance(len(batch))
        yield store.Rows(
            keys=[record["caption_id"] for record in batch],
            labels=[record["labels"] for record in batch],
            unknown=[[] for _ in batch],
            global_=global_.numpy(),
            local=local.numpy(),
            length=length.numpy().astype(np.int16),
        )
