"""The index of a benchmark's split: every image with its labels, checked once, for all jobs that read the images."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from t2ipal.benchmarks import load
from t2ipal.benchmarks.base import FileBenchmark, Record
from t2ipal.errors import UserError
from t2ipal.io import atomic_path, write_text
from t2ipal.settings import BenchmarkSettings

METADATA = b"t2ipal"
# Where a share of missing images is put up with, their names are beside the index.
MISSING_FILE = "missing.txt"
_SHOWN = 3


@dataclass(frozen=True)
class Index:
    """Rows of an index: ``root`` joined with a record's file is its image; ``images`` counts the whole split."""

    records: list[Record]
    root: Path
    protocol: str
    label_names: list[str]
    images: int


def _missing(records: Sequence[Record], root: Path) -> list[str]:
    """Files that are not there; a directory is listed once instead of asking for each of its files."""
    listed: dict[Path, set[str]] = {}
    missing = []
    for record in records:
        path = root / record.file
        if path.parent not in listed:
            listed[path.parent] = {found.name for found in path.parent.iterdir()} if path.parent.is_dir() else set()
        if path.name not in listed[path.parent]:
            missing.append(record.file)
    return missing


def listed(names: Sequence[str], shown: int = _SHOWN) -> str:
    """``a, b, c and 4 more``."""
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")


def _check(benchmark: FileBenchmark, split: str, records: Sequence[Record], missing: Sequence[str]) -> None:
    name, expected = benchmark.settings.name, benchmark.count(split)
    if len(records) != expected:
        raise UserError(
            f"the {split} split of benchmark '{name}' in {benchmark.root} lists {len(records):,} images instead of "
            f"{expected:,}; complete it, or set benchmark.{split}_images: {len(records)} to go on with this part (its "
            "number is in the protocol id)"
        )
    tolerated = benchmark.settings.missing
    if len(missing) > tolerated * len(records):
        share = len(missing) / len(records)
        raise UserError(
            f"{len(missing):,} of {len(records):,} images of the {split} split of benchmark '{name}' are missing in "
            f"{benchmark.root}: {listed(missing)}; restore them, or raise benchmark.missing to at least {share:.4f} "
            "to leave them out (their number is in the protocol id)"
        )


def build(settings: dict[str, Any], output: Path, missing: float = 0.0) -> None:
    """Write the index of the split that an index unit's ``settings`` name.

    Args:
        settings: of a unit of ``t2ipal.layout.Layout.index``.
        output: the Parquet file; a list of missing images, if there are any, is put beside it.
        missing: share of the images that may be missing.

    Raises:
        UserError: annotations are missing or damaged, their number is not the expected one, labels do not fit the
            label set, or too many images are missing.
    """
    split = settings["split"]
    benchmark = load(BenchmarkSettings.model_validate({**settings["benchmark"], "missing": missing}))
    if not isinstance(benchmark, FileBenchmark):
        raise UserError(f"benchmark '{benchmark.settings.name}' has no image files to list")
    names = benchmark.check_labels().names
    records = benchmark.records(split)
    absent = _missing(records, benchmark.root)
    _check(benchmark, split, records, absent)
    if absent:
        print(f"{len(absent):,} of {len(records):,} images are missing", file=sys.stderr)
        write_text(output.with_name(MISSING_FILE), "".join(f"{name}\n" for name in absent))
    described = {
        "split": split,
        "root": str(benchmark.root),
        "protocol": benchmark.protocol(split),
        "label_names": list(names),
        "images": len(records),
    }
    strings = pa.list_(pa.string())
    table = pa.table(
        {
            "key": pa.array([record.key for record in records], pa.string()),
            "file": pa.array([record.file for record in records], pa.string()),
            "labels": pa.array([record.labels for record in records], strings),
            "unknown": pa.array([record.unknown for record in records], strings),
        }
    ).replace_schema_metadata({METADATA: json.dumps(described, sort_keys=True).encode()})
    with atomic_path(output) as partial:
        pq.write_table(table, partial)


def read(path: Path, start: int = 0, count: int | None = None) -> Index:
    """The rows ``start`` to ``start + count`` of an index.

    Raises:
        UserError: the file is missing, damaged or no index.
    """
    try:
        table = pq.read_table(path, use_threads=False)
        described = json.loads((table.schema.metadata or {})[METADATA])
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise UserError(f"cannot read index {path} ({error}); delete it and run again") from None
    rows = table.slice(start, count).to_pylist()
    return Index(
        records=[Record(row["key"], row["file"], tuple(row["labels"]), tuple(row["unknown"])) for row in rows],
        root=Path(described["root"]),
        protocol=described["protocol"],
        label_names=described["label_names"],
        images=described["images"],
    )
