"""The scores of one evaluation, as its ``scores.parquet`` has them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from t2ipal.errors import UserError
from t2ipal.io import atomic_path, canonical_json

SCORES_FILE = "scores.parquet"


@dataclass(frozen=True)
class Scores:
    """Keys of N images, names of C classes, ``targets`` [N, C] (1 present, 0 absent, -1 unknown), ``values`` [N, C]."""

    keys: list[str]
    names: list[str]
    targets: NDArray[np.int8]
    values: NDArray[np.float32]


def read(path: Path) -> Scores:
    """Read a ``scores.parquet``.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        table = pq.read_table(path, use_threads=False)
        names: list[str] = json.loads(table.schema.metadata[b"t2ipal"])["labels"]
        shape = (table.num_rows, len(names))
        targets, values = (
            table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(shape)
            for column in ("target", "score")
        )
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise UserError(f"cannot read scores {path} ({error}); delete its directory and run again") from None
    return Scores(table["key"].to_pylist(), names, targets.astype(np.int8), values.astype(np.float32))


def write(
    output: Path,
    keys: Sequence[str],
    targets: NDArray[np.integer],
    scores: NDArray[np.float32],
    metadata: dict[str, Any],
) -> None:
    """Write a ``scores.parquet``; ``metadata`` names the ``labels`` of its columns."""
    classes = scores.shape[1]
    columns = {
        "key": pa.array(list(keys), pa.string()),
        "target": pa.FixedSizeListArray.from_arrays(pa.array(targets.astype(np.int8).ravel()), classes),
        "score": pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), classes),
    }
    table = pa.table(columns).replace_schema_metadata({b"t2ipal": canonical_json(metadata).encode()})
    with atomic_path(output) as partial:
        pq.write_table(table, partial)
