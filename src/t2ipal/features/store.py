"""The feature cache: self-describing Parquet parts of key, labels, global and local features."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from t2ipal.errors import UserError
from t2ipal.io import atomic_path

METADATA = b"t2ipal"
FORMAT = 1


@dataclass(frozen=True)
class Rows:
    """One batch to write: features are float [N, D] and [N, L, D]; ``length`` [N] counts valid positions."""

    keys: list[str]
    labels: list[list[str]]
    unknown: list[list[str]]
    global_: NDArray[np.floating[Any]]
    local: NDArray[np.floating[Any]]
    length: NDArray[np.int16]


@dataclass(frozen=True)
class Features:
    """What was read: float32 ``global_`` [N, D] and ``local`` [N, L, D], int16 ``length`` [N]."""

    keys: list[str]
    labels: list[list[str]]
    unknown: list[list[str]]
    global_: NDArray[np.float32]
    local: NDArray[np.float32]
    length: NDArray[np.int16]
    meta: dict[str, Any]

    def targets(self, names: Sequence[str]) -> NDArray[np.int8]:
        """[N, C]: 1 present, 0 absent, -1 unknown."""
        column = {name: index for index, name in enumerate(names)}
        targets = np.zeros((len(self.keys), len(names)), dtype=np.int8)
        for rows, value in ((self.unknown, -1), (self.labels, 1)):
            for row, found in enumerate(rows):
                for name in found:
                    targets[row, column[name]] = value
        return targets


def _fixed(values: NDArray[np.floating[Any]]) -> pa.FixedSizeListArray:
    flat = values.reshape(len(values), -1).astype(np.float16)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])


def _record_batch(rows: Rows) -> pa.RecordBatch:
    strings = pa.list_(pa.string())
    columns = {
        "key": pa.array(rows.keys, pa.string()),
        "labels": pa.array(rows.labels, strings),
        "unknown": pa.array(rows.unknown, strings),
        "global": _fixed(rows.global_),
        "local": _fixed(rows.local),
        "length": pa.array(rows.length, pa.int16()),
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def write(path: Path, batches: Iterable[Rows], describe: dict[str, Any]) -> int:
    """Stream batches into one Parquet part, atomically; returns the number of rows.

    ``describe`` becomes the schema's metadata, with L and D added.

    Raises:
        UserError: there is nothing to write.
    """
    count, writer = 0, None
    with atomic_path(path) as partial:
        try:
            for rows in batches:
                batch = _record_batch(rows)
                if writer is None:
                    shape = {"format": FORMAT, "L": int(rows.local.shape[1]), "D": int(rows.local.shape[2])}
                    metadata = {METADATA: json.dumps({**describe, **shape}, sort_keys=True).encode()}
                    writer = pq.ParquetWriter(partial, batch.schema.with_metadata(metadata), compression="zstd")
                writer.write_batch(batch)
                count += len(rows.keys)
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise UserError(f"no rows to write to {path}: its source is empty")
    return count


def _open(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"cannot read feature file {path}: {error}; delete it and run again") from None
    metadata = (table.schema.metadata or {}).get(METADATA)
    if metadata is None:
        raise UserError(f"{path} is not a t2ipal feature file; delete it and run again")
    return table, json.loads(metadata)


def _matrix(table: pa.Table, column: str) -> NDArray[np.float16]:
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table[column].chunks]
    return np.concatenate(chunks).reshape(table.num_rows, -1)


def read(paths: Sequence[Path]) -> Features:
    """Read the parts of one source, in the order given.

    Raises:
        UserError: a part is missing, damaged, foreign, or of another source than the first one.
    """
    opened = [_open(path) for path in paths]
    first = opened[0][1]
    for path, (_, meta) in zip(paths, opened, strict=True):
        if meta != first:
            raise UserError(f"{path} does not belong to the same features as {paths[0]}")
    table = pa.concat_tables([part.replace_schema_metadata(None) for part, _ in opened])
    return Features(
        keys=table["key"].to_pylist(),
        labels=table["labels"].to_pylist(),
        unknown=table["unknown"].to_pylist(),
        global_=_matrix(table, "global").astype(np.float32),
        local=_matrix(table, "local").astype(np.float32).reshape(-1, first["L"], first["D"]),
        length=table["length"].to_numpy().astype(np.int16),
        meta=first,
    )
