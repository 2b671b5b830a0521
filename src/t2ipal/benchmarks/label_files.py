"""Labels of one's own images: CSV, JSON, JSON lines, Parquet or COCO's JSON -> what is said of each image.

Every row names an image in the first of the columns `IMAGE_COLUMNS` that it has. The rest of it is either a column
``labels`` with the classes that are there (and perhaps ``unknown`` with those that nobody can tell), or one column for
each class that was looked for (`VALUES`). A class without a column was not looked for: it is unknown.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from t2ipal.benchmarks.coco import instances
from t2ipal.benchmarks.documents import parse_json, read_json, read_text
from t2ipal.errors import UserError

IMAGE_COLUMNS = ("image", "file", "path", "file_name", "filename")
# What the cells of a class's column say: True for present, None for unknown, as is null in JSON and Parquet. An empty
# cell of CSV says "absent".
VALUES: Mapping[str, bool | None] = {
    "1": True, "true": True, "0": False, "false": False, "": False, "-1": None, "?": None, "none": None, "nan": None,
}  # fmt: skip
_SEPARATORS = re.compile(r"[;|,]")
# Nearly all of COCO's JSON, and certainly no class.
_HEAVY = ("segmentation",)


class Entry(NamedTuple):
    """What is said of an image.

    ``judged`` are the classes that were looked for; None: all of the label set. Those of COCO's JSON may be ``spare``:
    categories that the label set lacks, and that no image has.
    """

    image: str
    labels: tuple[str, ...]
    unknown: tuple[str, ...] = ()
    judged: tuple[str, ...] | None = None
    spare: bool = False


class _FlawedRowError(Exception):
    """Why a row cannot be read."""


def entries(path: Path) -> tuple[Entry, ...]:
    """What the annotation file says of each image, in its order; the format is told by the file's name.

    Raises:
        UserError: the file is missing, damaged, empty, or of no format that is known; names the place.
    """
    if path.suffix.lower() not in _READERS:
        raise UserError(f"benchmark.annotations: {path} is none of {', '.join(_READERS)}; convert it to one of them")
    try:
        state = path.stat()
    except OSError as error:
        raise UserError(f"benchmark.annotations: cannot read {path} ({error.strerror}); mend the path") from None
    return _entries(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4)
def _entries(path: Path, _modified: int, _size: int) -> tuple[Entry, ...]:
    found = tuple(_READERS[path.suffix.lower()](path))
    if not found:
        raise UserError(f"benchmark.annotations: {path} lists no image; add one")
    return found


def _read_csv(path: Path) -> Iterator[Entry]:
    text = read_text(path)
    header = text.lstrip().partition("\n")[0]
    delimiter = next((sign for sign in ",\t;" if sign in header), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    try:
        rows = ((reader.line_num, [cell.strip() for cell in row]) for row in reader)
        written = [(line, row) for line, row in rows if any(row)]
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: it is no CSV ({error}); mend it") from None
    if not written:
        raise UserError(f"benchmark.annotations: {path} is empty; its first line must name the columns")
    columns = written[0][1]
    if len(set(columns)) < len(columns) or "" in columns:
        raise UserError(f"{path}: its first line has a column without name, or one name twice; mend it")
    for line, row in written[1:]:
        if len(row) != len(columns):
            raise UserError(f"{path}, line {line}: {len(row)} cells in place of {len(columns)}; mend the line")
        yield _entry(dict(zip(columns, row, strict=True)), f"{path}, line {line}")


def _read_json(path: Path) -> Iterator[Entry]:
    document = read_json(path, _HEAVY)
    if isinstance(document, dict) and isinstance(document.get("images"), list):
        found = instances(document, path)
        judged = tuple(sorted(set(found.categories.values())))
        for identity, file in found.files.items():
            yield Entry(file, tuple(sorted(found.present[identity])), (), judged, spare=True)
    elif isinstance(document, dict):
        for number, (image, labels) in enumerate(document.items(), 1):
            yield _entry({"image": image, "labels": labels}, f"{path}, entry {number}")
    elif isinstance(document, list):
        for number, row in enumerate(document, 1):
            yield _entry(row, f"{path}, entry {number}")
    else:
        raise UserError(f"benchmark.annotations: {path} has neither a list nor an object; see docs/benchmarks.md")


def _read_json_lines(path: Path) -> Iterator[Entry]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            try:
                row = parse_json(line)
            except ValueError as error:
                raise UserError(f"{path}, line {number}: it is no JSON ({error}); mend the line") from None
            yield _entry(row, f"{path}, line {number}")


def _read_parquet(path: Path) -> Iterator[Entry]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path, use_threads=False).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"annotation file {path} is damaged: it is no Parquet ({error}); get it anew") from None
    for number, row in enumerate(rows, 1):
        yield _entry(row, f"{path}, row {number}")


_READERS = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
}


def _entry(row: Any, place: str) -> Entry:
    try:
        return _parsed(row)
    except _FlawedRowError as flaw:
        raise UserError(f"{place}: {flaw}; mend it, see docs/benchmarks.md") from None


def _parsed(row: Any) -> Entry:
    if not isinstance(row, dict):
        raise _FlawedRowError("it is no object with an image and labels")
    cells = {str(name).strip(): value for name, value in row.items()}
    column = next((name for name in cells if name.lower() in IMAGE_COLUMNS), None)
    if column is None:
        raise _FlawedRowError(f"none of its columns {', '.join(cells)} is {' or '.join(IMAGE_COLUMNS)}")
    image = cells.pop(column)
    if not isinstance(image, str) or not image.strip():
        raise _FlawedRowError(f"column '{column}' names no image")
    lists = {name.lower(): value for name, value in cells.items() if name.lower() in ("labels", "unknown")}
    if "labels" in lists:
        judged = () if lists["labels"] is None else None
        return Entry(image.strip(), _names(lists["labels"]), _names(lists.get("unknown")), judged)
    if not cells:
        raise _FlawedRowError("it has no column 'labels', and none that is named after a class")
    said = {name: _value(name, cell) for name, cell in cells.items()}
    present = tuple(name for name, value in said.items() if value)
    return Entry(image.strip(), present, tuple(name for name, value in said.items() if value is None), tuple(said))


def _names(cell: Any) -> tuple[str, ...]:
    """Names in a list, or in a text with ``;``, ``|`` or ``,`` between them; each of them once."""
    names: Iterable[Any] = _SEPARATORS.split(cell) if isinstance(cell, str) else () if cell is None else cell
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise _FlawedRowError(f"labels {cell!r} are neither a text nor a list of texts")
    return tuple(dict.fromkeys(name.strip() for name in names if name.strip()))


def _value(name: str, cell: Any) -> bool | None:
    text = str(cell).strip().lower().removesuffix(".0")
    if text not in VALUES:
        raise _FlawedRowError(f"column '{name}' has {cell!r} in place of 1, 0, or -1 for unknown")
    return VALUES[text]
