"""Stage 3: features of synthetic shards, of captions, and of a benchmark's images; one Parquet part per job."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from t2ipal import benchmarks
from t2ipal.benchmarks import index as indices
from t2ipal.errors import UserError
from t2ipal.features import store
from t2ipal.features.backbone import Backbone, load
from t2ipal.features.decoding import make_ready, worker_count
from t2ipal.features.extraction import Extraction, Item, Tolerance
from t2ipal.io import canonical_json
from t2ipal.progress import Progress
from t2ipal.sequences import batched
from t2ipal.settings import BenchmarkSettings
from t2ipal.shards import check, samples


def _describe(settings: dict[str, Any], backbone: Backbone) -> dict[str, Any]:
    return {
        "source": settings["source"],
        "backbone": backbone.name,
        "identity": backbone.identity,
        "preprocessing": backbone.preprocessing,
        "grid": None,
    }


@lru_cache(maxsize=1)
def _opened(settings: str, device: str) -> Backbone:
    """The CLIP of settings in canonical JSON: the shards of a job have the same."""
    return load(json.loads(settings), device)


def _write_images(
    settings: dict[str, Any],
    items: Iterable[Item],
    total: int,
    output: Path,
    device: str,
    workers: int | None,
    tolerance: Tolerance,
    protocol: str | None = None,
    **more: Any,
) -> None:
    processes = worker_count(workers, device, -(-total // settings["batch_size"]))
    make_ready(processes)
    backbone = _opened(canonical_json(settings), device)
    if protocol is not None:
        more["protocol"] = f"{protocol}/{backbone.preprocessing}"
    extraction = Extraction(
        backbone,
        settings["batch_size"],
        processes,
        tolerance,
        reference=lambda: load({**settings, "precision": "float32"}, device),
    )
    described = {**_describe(settings, backbone), **more}
    extraction.write(items, total, f"{settings['source']} images", output, described)


def extract_shards(
    settings: dict[str, Any], parts: Mapping[Path, Path], device: str, *, workers: int | None = None
) -> None:
    """Features of several synthetic shards (archive -> part), from one loading of the CLIP. Finished parts are kept.

    Raises:
        UserError: a shard is damaged.
    """
    for shard, output in parts.items():
        if not output.exists():
            extract_shard(settings, shard, output, device, workers=workers)


def extract_shard(
    settings: dict[str, Any], shard: Path, output: Path, device: str, *, workers: int | None = None
) -> None:
    """Features of one synthetic shard.

    Raises:
        UserError: the shard is damaged.
    """

    def refusal(unreadable: list[dict[str, str]]) -> UserError:
        first = unreadable[0]
        return UserError(f"synthetic image {first['key']} is damaged ({first['reason']}); delete {shard} and rerun")

    check(shard)
    items = (Item(sample.key, sample.key, sample.labels, (), sample.encoded) for sample in samples(shard))
    total = sum(1 for _ in samples(shard))
    _write_images(settings, items, total, output, device, workers, Tolerance(0, refusal))


def extract_images(
    settings: dict[str, Any],
    part: int,
    output: Path,
    device: str,
    *,
    index: Path | None = None,
    workers: int | None = None,
    missing: float = 0.0,
) -> None:
    """Features of part ``part`` of the benchmark's split that ``settings['source']`` names.

    Args:
        settings: of a features unit (``t2ipal.layout.Layout.features``).
        part: its number; it has ``part_size`` images, those that cannot be read among them.
        output: the Parquet part to write.
        device: cpu, cuda or cuda:N.
        index: the list of the split's image files; none where images are rendered.
        workers: processes that decode; none: none on a CPU, up to 8 beside a GPU.
        missing: share of the split's images that may be missing or unreadable; they are no rows, but recorded.

    Raises:
        UserError: the index is damaged, or more images are unreadable.
    """
    if index is None:
        _extract_rendered(settings, part, output, device)
        return
    size = settings["part_size"]
    chosen = indices.read(index, part * size, size)
    root, source = chosen.root, settings["source"]

    def refusal(unreadable: list[dict[str, str]]) -> UserError:
        share = math.ceil(len(unreadable) / chosen.images * 1e4) / 1e4
        named = indices.listed([f"{record['file']} ({record['reason']})" for record in unreadable])
        return UserError(
            f"{len(unreadable):,} of the {chosen.images:,} {source} images in {root} cannot be read: {named}; restore "
            f"them, or raise benchmark.missing to at least {share:.4f} to leave them out (their number is in the "
            "protocol id)"
        )

    items = (Item(found.key, found.file, found.labels, found.unknown, root / found.file) for found in chosen.records)
    tolerance = Tolerance(missing * chosen.images, refusal)
    total, names = len(chosen.records), chosen.label_names
    _write_images(settings, items, total, output, device, workers, tolerance, chosen.protocol, label_names=names)


def _extract_rendered(settings: dict[str, Any], part: int, output: Path, device: str) -> None:
    """In this process: what takes its time is the drawing of an image, not its decoding."""
    split = benchmarks.load(BenchmarkSettings.model_validate(settings["benchmark"])).split(settings["source"])
    size = settings["part_size"]
    chosen = range(part * size, min((part + 1) * size, len(split.keys)))
    items = (Item(split.keys[i], split.keys[i], split.labels[i], split.unknown[i], split.image(i)) for i in chosen)
    none = Tolerance(0, lambda records: UserError(f"image {records[0]['key']} cannot be drawn"))
    _write_images(settings, items, len(chosen), output, device, 0, none, split.protocol)


def extract_captions(settings: dict[str, Any], captions: Path, part: int, output: Path, device: str) -> None:
    """Features of part ``part`` of the captions: end-of-text embeddings and token embeddings."""
    size = settings["part_size"]
    table = pq.read_table(captions, columns=["caption_id", "text", "labels"]).slice(part * size, size)
    backbone = load(settings, device)
    with Progress("features of captions", table.num_rows, "captions") as progress:
        rows = _caption_rows(backbone, table.to_pylist(), settings["batch_size"], progress)
        store.write(output, rows, _describe(settings, backbone))


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
