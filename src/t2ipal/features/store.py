"""The feature cache: self-describing Parquet parts of key, labels, global and local features.

Local features are by far the most of it (6 GB for 60,000 images of a ResNet-50), so they are never decoded as a
whole, and beyond ``RAM_LIMIT`` they are kept in a temporary file that is mapped into memory.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from t2ipal.errors import UserError
from t2ipal.io import swept_path

METADATA = b"t2ipal"
# What is known of a part when it is written: of how it was made, and which images it lacks. Parts may differ in it.
FACTS = b"t2ipal_facts"
FORMAT = 1

# Local features of more bytes than this are kept in a file, not in RAM.
RAM_LIMIT = 2**30
# What reading holds at a time: decoded features, and compressed pages of a column.
BLOCK_BYTES, PAGES_BYTES = 2**20, 2**18

# Batches that wait for being written, beside the one that is written and the one that is made.
_WAITING = 2

_LIGHT = ["key", "labels", "unknown", "length"]
_FEATURES = ["global.list.element", "local.list.element"]


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
    """What was read: float16 ``global_`` [N, D] and ``local`` [N, L, D], as stored, and int16 ``length`` [N].

    ``local`` may be mapped from a file: take the rows you need, and convert those.
    """

    keys: list[str]
    labels: list[list[str]]
    unknown: list[list[str]]
    global_: NDArray[np.float16]
    local: NDArray[np.float16]
    length: NDArray[np.int16]
    meta: dict[str, Any]
    # Images that could not be read, by key, file and reason: they are no rows.
    missing: list[dict[str, str]] = field(default_factory=list)

    def targets(self, names: Sequence[str]) -> NDArray[np.int8]:
        """[N, C]: 1 present, 0 absent, -1 unknown."""
        return target_matrix(self.labels, self.unknown, names)


def target_matrix(
    labels: Sequence[Sequence[str]], unknown: Sequence[Sequence[str]], names: Sequence[str]
) -> NDArray[np.int8]:
    """[N, C] from the labels present in, and those unknown of, each of N samples: 1 present, 0 absent, -1 unknown."""
    column = {name: index for index, name in enumerate(names)}
    targets = np.zeros((len(labels), len(names)), dtype=np.int8)
    for rows, value in ((unknown, -1), (labels, 1)):
        for row, found in enumerate(rows):
            targets[row, [column[name] for name in found]] = value
    return targets


def _fixed(values: NDArray[np.floating[Any]]) -> pa.FixedSizeListArray:
    flat = values.astype(np.float16, copy=False).ravel()
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), math.prod(values.shape[1:]))


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


class _Part:
    """A Parquet part that grows by row groups."""

    def __init__(self, path: Path, describe: dict[str, Any]) -> None:
        self._path, self._describe = path, describe
        self._writer: pq.ParquetWriter | None = None
        self.rows = 0

    def add(self, rows: Rows) -> None:
        """Features have too many values for a dictionary to pay: without, reading takes a fifth of the time.

        Smallest and largest values, which nobody asks for, would take a third of the time of writing.
        """
        batch = _record_batch(rows)
        if self._writer is None:
            shape = {"format": FORMAT, "L": int(rows.local.shape[1]), "D": int(rows.local.shape[2])}
            metadata = {METADATA: json.dumps({**self._describe, **shape}, sort_keys=True).encode()}
            self._writer = pq.ParquetWriter(
                self._path,
                batch.schema.with_metadata(metadata),
                compression="zstd",
                use_dictionary=False,
                use_byte_stream_split=_FEATURES,
                write_statistics=False,
            )
        self._writer.write_batch(batch)
        self.rows += len(rows.keys)

    def close(self, facts: dict[str, Any] | None = None) -> bool:
        """Whether there was anything to write."""
        writer, self._writer = self._writer, None
        if writer is None:
            return False
        if facts is not None:
            writer.add_key_value_metadata({FACTS: json.dumps(facts, sort_keys=True).encode()})
        writer.close()
        return True


def write(
    path: Path,
    batches: Iterable[Rows],
    describe: dict[str, Any],
    facts: Callable[[], dict[str, Any]] = dict,
) -> int:
    """Stream batches into one Parquet part, each as a row group, atomically; returns the number of rows.

    A thread converts and compresses them while the next one is made; at most four batches are in memory. What a killed
    process left of this part is removed.

    Args:
        path: the file, which appears when it is complete.
        batches: at least one, which may have no rows.
        describe: becomes the schema's metadata, with L and D added; all parts of one source must agree in it.
        facts: asked after the last batch for what else there is to say of this part; ``missing`` is the images that
            are not among its rows.

    Raises:
        UserError: there is nothing to write.
    """
    with swept_path(path) as partial:
        part = _Part(partial, describe)
        try:
            _add_all(part, batches)
            if not part.close(facts()):
                raise UserError(f"no rows to write to {path}: its source is empty")
        finally:
            part.close()
    return part.rows


def _add_all(part: _Part, batches: Iterable[Rows]) -> None:
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1, "writer") as writer:
        for rows in batches:
            # The oldest is being written, or is done: its error ends the work here.
            while len(waiting) > _WAITING or (waiting and waiting[0].done()):
                waiting.popleft().result()
            waiting.append(writer.submit(part.add, rows))
        for future in waiting:
            future.result()


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """A part to read piece by piece; by default pyarrow would keep all its compressed pages in RAM meanwhile."""
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=PAGES_BYTES) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot read feature file {path}: {error}; delete it and run again") from None


def _light(path: Path) -> tuple[pa.Table, dict[str, Any], dict[str, Any]]:
    """All columns but the features, what the part says of itself, and its facts."""
    with _opened(path) as file:
        metadata = file.metadata.metadata or {}
        if METADATA not in metadata:
            raise UserError(f"{path} is not a t2ipal feature file; delete it and run again")
        table = file.read(columns=_LIGHT, use_threads=False).replace_schema_metadata(None)
        return table, json.loads(metadata[METADATA]), json.loads(metadata.get(FACTS, b"{}"))


def _blocks(paths: Sequence[Path], column: str, width: int) -> Iterator[NDArray[np.float16]]:
    """The rows [n, width] of a column of features, some at a time."""
    rows = max(1, BLOCK_BYTES // (2 * width))
    for path in paths:
        with _opened(path) as file:
            for batch in file.iter_batches(rows, columns=[column], use_threads=False):
                yield batch.column(0).flatten().to_numpy(zero_copy_only=False).reshape(-1, width)


def _in_memory(blocks: Iterable[NDArray[np.float16]], rows: int, width: int) -> NDArray[np.float16]:
    gathered, filled = np.empty((rows, width), np.float16), 0
    for block in blocks:
        gathered[filled : filled + len(block)] = block
        filled += len(block)
    return gathered


def _in_file(blocks: Iterable[NDArray[np.float16]], rows: int, width: int, directory: Path) -> NDArray[np.float16]:
    """Gather in a file without a name, which the system frees with the process, however that ends."""
    size = 2 * rows * width
    try:
        if shutil.disk_usage(directory).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with tempfile.TemporaryFile(dir=directory) as file:
            # Written, not filled through the mapping: there, a disk that fills up would kill the process.
            for block in blocks:
                file.write(block.data)
            file.flush()
            return np.asarray(np.memmap(file, np.float16, "r+", shape=(rows, width)))
    except OSError as error:
        raise UserError(
            f"cannot keep {size / 2**30:.1f} GiB of local features in a temporary file in {directory}: "
            f"{error.strerror or error}; make room there"
        ) from None


def read(paths: Sequence[Path], scratch: Path | None = None) -> Features:
    """Read the parts of one source, in the order given, a few rows at a time.

    Args:
        paths: at least one part.
        scratch: directory of the temporary file for local features beyond ``RAM_LIMIT``; by default that of the
            first part.

    Raises:
        UserError: a part is missing, damaged, foreign, or of another source than the first one; or the temporary
            file does not fit into its directory.
    """
    opened = [_light(path) for path in paths]
    first = opened[0][1]
    for path, (_, meta, _) in zip(paths, opened, strict=True):
        if meta != first:
            raise UserError(f"{path} does not belong to the same features as {paths[0]}")
    table = pa.concat_tables([part for part, _, _ in opened])
    rows, positions, width = table.num_rows, first["L"], first["D"]
    blocks, size = _blocks(paths, "local", positions * width), positions * width
    if 2 * rows * size <= RAM_LIMIT:
        local = _in_memory(blocks, rows, size)
    else:
        local = _in_file(blocks, rows, size, scratch or paths[0].parent)
    return Features(
        keys=table["key"].to_pylist(),
        labels=table["labels"].to_pylist(),
        unknown=table["unknown"].to_pylist(),
        global_=_in_memory(_blocks(paths, "global", width), rows, width),
        local=local.reshape(rows, positions, width),
        length=table["length"].to_numpy().astype(np.int16),
        meta=first,
        missing=[record for _, _, facts in opened for record in facts.get("missing", [])],
    )
