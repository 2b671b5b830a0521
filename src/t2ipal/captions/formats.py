"""The layouts of caption files: what stands at each place of one, read from front to back."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO

import pyarrow.parquet as pq

from t2ipal.captions.streams import BLOCK, as_text, elements, lines, opened
from t2ipal.errors import UserError
from t2ipal.settings import CorpusSettings

ROWS = 2048  # of Parquet at a time

_SUFFIXES = {
    ".jsonl": "localized-narratives", ".ndjson": "localized-narratives", ".txt": "text", ".csv": "csv", ".tsv": "csv",
    ".parquet": "parquet",
}  # fmt: skip
_PACKED = (".gz", ".zst")


class Input(NamedTuple):
    """A file, and what is in it once it is unpacked; these are the same where it is not packed."""

    path: Path
    raw: BinaryIO
    stream: BinaryIO
    settings: CorpusSettings

    def text(self, newline: str | None = None) -> TextIO:
        """What is in the file, as text in ``captions.corpus.encoding``."""
        return as_text(self.stream, self.settings.encoding, newline)


class Record(NamedTuple):
    """What a format finds at a place; ``flaw`` says why it is no caption, ``lost`` how many lines that costs."""

    number: int
    text: Any = None
    image_id: Any = None
    flaw: str = ""
    lost: int = 1


def layout(source: Input) -> str:
    """The format: as configured, by the file's name, or by its first bytes."""
    if source.settings.format != "auto":
        return source.settings.format
    suffix = next((s.lower() for s in reversed(source.path.suffixes) if s.lower() not in _PACKED), "")
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    with opened(source.path) as (_, stream), as_text(stream, source.settings.encoding) as text:
        first = text.read(BLOCK).lstrip().split("\n", 1)[0]
    if first.startswith("PAR1"):
        return "parquet"
    if first.startswith("{") or suffix == ".json":
        return "coco" if _entry(1, first).flaw else "localized-narratives"
    return "csv" if source.settings.column in [cell.strip(' "') for cell in first.split(",")] else "text"


def _entry(number: int, entry: Any) -> Record:
    """The caption in a JSON object, or in the text of one."""
    if isinstance(entry, str):
        try:
            entry = json.loads(entry)
        except (ValueError, RecursionError) as error:
            return Record(number, flaw=f"it is no JSON ({getattr(error, 'msg', 'nested too deeply')})")
    if not isinstance(entry, dict) or "caption" not in entry:
        return Record(number, flaw="it has no key 'caption'")
    return Record(number, entry["caption"], entry.get("image_id"))


def _read_text(source: Input) -> Iterator[Record]:
    with source.text() as text:
        for number, line in enumerate(lines(text), 1):
            if not line.isspace():
                yield Record(number, line.rstrip("\n"))


def _read_narratives(source: Input) -> Iterator[Record]:
    with source.text() as text:
        for number, line in enumerate(lines(text), 1):
            if not line.isspace():
                yield _entry(number, line)


def _read_coco(source: Input) -> Iterator[Record]:
    number = 0
    try:
        with source.text() as text:
            for number, entry in enumerate(elements(text, "annotations"), 1):
                yield _entry(number, entry)
    except ValueError as error:
        raise UserError(f"{source.path} is no JSON behind annotation {number} ({error}); get the file anew") from None
    if not number:
        raise UserError(f"{source.path} has no 'annotations': it is no COCO captions file (captions.corpus.format)")


def _columns(source: Input, names: Sequence[str]) -> tuple[str, ...]:
    """The configured columns, which must be among ``names``: that of the captions, and of image ids if there is one."""
    settings, there = source.settings, f"{source.path} has the columns {', '.join(names)}"
    if settings.column is None:
        raise UserError(f"captions.corpus.column is needed for CSV and Parquet; {there}")
    wanted = {"column": settings.column, "image_column": settings.image_column}
    for key, name in wanted.items():
        if name is not None and name not in names:
            raise UserError(f"captions.corpus.{key}: there is no column '{name}'; {there}")
    return tuple(name for name in wanted.values() if name is not None)


def _read_csv(source: Input) -> Iterator[Record]:
    delimiter = "\t" if ".tsv" in (suffix.lower() for suffix in source.path.suffixes) else ","
    with source.text(newline="") as text:
        reader = csv.reader(lines(text), delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
        except csv.Error as error:
            raise UserError(f"{source.path}: the names of columns in its first line are no CSV ({error})") from None
        places = [header.index(name) for name in _columns(source, header)]
        while True:
            start = reader.line_num + 1
            try:
                row = next(reader, None)
            except csv.Error as error:
                yield Record(start, flaw=f"it is no CSV ({error})", lost=reader.line_num - start + 1)
                continue
            if row is None:
                return
            if row:
                yield _cells(start, row, places)


def _cells(number: int, row: Sequence[str], places: Sequence[int]) -> Record:
    """What stands at the places of caption and image id in a row; the latter may be missing."""
    if len(row) <= max(places):
        return Record(number, flaw=f"it has only {len(row)} columns")
    return Record(number, row[places[0]], row[places[1]] if len(places) > 1 else None)


def _read_parquet(source: Input) -> Iterator[Record]:
    if source.stream is not source.raw:
        raise UserError(f"{source.path} is Parquet inside a packed file; unpack it, Parquet packs its columns itself")
    file = pq.ParquetFile(source.raw, pre_buffer=False, buffer_size=BLOCK)
    columns = _columns(source, file.schema_arrow.names)
    number = 0
    for batch in file.iter_batches(batch_size=ROWS, columns=list(columns)):
        texts, *rest = (batch.column(name).to_pylist() for name in columns)
        for text, image_id in zip(texts, rest[0] if rest else [None] * len(texts), strict=True):
            number += 1
            yield Record(number, text, image_id)


READERS = {
    "coco": _read_coco,
    "localized-narratives": _read_narratives,
    "text": _read_text,
    "csv": _read_csv,
    "parquet": _read_parquet,
}
