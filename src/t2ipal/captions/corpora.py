"""Captions in files, one after the other: COCO JSON, localized narratives, text, CSV, Parquet; plain, gz or zst.

Files are streamed: memory does not grow with them. What cannot be read is counted and named, up to a share.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from t2ipal.captions.formats import READERS, Input, layout
from t2ipal.captions.streams import LONGEST, opened
from t2ipal.errors import UserError
from t2ipal.io import matching
from t2ipal.progress import Progress
from t2ipal.settings import CorpusSettings

JUDGED_AFTER = 1000  # lines
NAMED = 5  # malformed lines
REPORT_EVERY = 2048  # lines
MEGABYTE = 1_000_000

_UNITS = {"coco": "annotation", "parquet": "row"}
_SURROGATE = re.compile("[\ud800-\udfff]")


class Line(NamedTuple):
    """A caption as its file has it, the image that it describes where the file tells, and where it stands."""

    text: str
    image_id: str | None
    place: str


@dataclass
class Tally:
    """How many lines were read and how many could not be, in all and by file, and the places of the first few."""

    allowed: float
    lines: int = 0
    malformed: int = 0
    places: list[str] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)

    def reject(self, place: str, reason: str, lost: int) -> None:
        """Count ``lost`` malformed lines.

        Raises:
            UserError: of at least a thousand lines more than the allowed share is malformed.
        """
        self.malformed += lost
        if len(self.places) < NAMED:
            self.places.append(f"{place}: {reason}")
        if self.lines >= JUDGED_AFTER:
            self.judge()

    def judge(self) -> None:
        """Raise a UserError if more than the allowed share of the lines is malformed."""
        if self.malformed > self.allowed * self.lines:
            raise UserError(
                f"captions.corpus.files: {self.malformed} of {self.lines} lines cannot be used, first "
                f"{self.places[0]}; mend the file, or raise captions.corpus.malformed ({self.allowed:g})"
            )


def find(patterns: Sequence[str], key: str = "files") -> tuple[Path, ...]:
    """The files that paths and glob patterns (``**`` goes into folders) stand for, sorted, each once.

    ``key`` is the key of ``captions.corpus`` that holds them.

    Raises:
        UserError: one of them stands for no file.
    """
    found: set[Path] = set()
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            raise UserError(f"captions.corpus.{key}: {pattern} is a folder; name its files, as {path / '*.txt'}")
        files = matching(pattern)
        if not files:
            raise UserError(f"captions.corpus.{key}: there is no file {pattern}; mend the path or the pattern")
        found.update(files)
    return tuple(sorted(found))


def read(paths: Sequence[Path], settings: CorpusSettings, tally: Tally | None = None) -> Iterator[Line]:
    """The captions of all files in order, in one pass; ``tally`` is filled on the way.

    Raises:
        UserError: a file cannot be opened, is cut off or damaged, is of another format or lacks the column; too many
            lines are malformed; or there is no line at all.
    """
    tally = tally or Tally(settings.malformed)
    meter = _Meter([path.stat().st_size for path in paths])
    with meter:
        for path in paths:
            try:
                with opened(path) as (raw, stream):
                    yield from _captions(Input(path, raw, stream, settings), tally, meter)
            except (OSError, pa.ArrowException) as error:
                reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
                raise UserError(f"captions.corpus.files: cannot read {path} to its end ({reason})") from None
            meter.finish_file(tally.lines)
    tally.judge()
    if not tally.lines:
        raise UserError(f"captions.corpus.files: no line in {', '.join(map(str, paths))}")


class _Meter(Progress):
    """Progress in megabytes of the files as they are, with lines and lines/s beside them."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__("corpus", -(-sum(sizes) // MEGABYTE), "MB")
        self.sizes, self.before = list(sizes), 0

    def saw(self, lines_read: int, position: int) -> None:
        """Tell how far reading has come: lines in all, bytes of the present file."""
        rate = lines_read / max(time.monotonic() - self.started, 1e-9)
        self.describe(f"corpus, {lines_read} lines, {rate:.0f} lines/s")
        self.advance(max(-(-(self.before + position) // MEGABYTE) - self.done, 0))

    def finish_file(self, lines_read: int) -> None:
        """Go on to the next file."""
        self.before += self.sizes.pop(0)
        self.saw(lines_read, 0)


def _captions(source: Input, tally: Tally, meter: _Meter) -> Iterator[Line]:
    found = layout(source)
    before = tally.lines, tally.malformed
    encoding = source.settings.encoding
    unit = f"{source.path}, {_UNITS.get(found, 'line')}"
    for count, (number, text, image_id, flaw, lost) in enumerate(READERS[found](source), 1):
        tally.lines += lost
        if not count % REPORT_EVERY:
            meter.saw(tally.lines, source.raw.tell())
        flaw = flaw or _flaw(text, encoding)
        if flaw:
            tally.reject(f"{unit} {number}", flaw, lost)
        else:
            yield Line(text, None if image_id in (None, "") else str(image_id), f"{unit} {number}")
    tally.files.append(
        {
            "file": str(source.path),
            "format": found,
            "bytes": source.path.stat().st_size,
            "lines": tally.lines - before[0],
            "malformed": tally.malformed - before[1],
        }
    )


def _flaw(text: Any, encoding: str) -> str:
    """Why this is no caption; empty if it is one."""
    if not isinstance(text, str):
        return "the caption is no text"
    if "\ufffd" in text or "\0" in text:
        return f"it is no text in {encoding} (captions.corpus.encoding)"
    if not text.isascii() and _SURROGATE.search(text):
        return "it holds half a surrogate pair"
    return f"it has more than {LONGEST} characters" if len(text) >= LONGEST else ""
