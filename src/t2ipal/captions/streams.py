"""Files that are read from front to back in constant memory: unpacked, as text, line by line, or as a JSON array."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import pyarrow as pa

from t2ipal.errors import UserError

LONGEST = 1 << 24  # characters of a line, or of one value in a JSON file
BLOCK = 1 << 20

_CODECS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_SPACE = re.compile(r"\s*")
_DELIMITERS = frozenset(",:]} \t\r\n")


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The file itself, and the bytes in it: unpacked where its first bytes are those of gzip or Zstandard.

    A packed file that is cut off or damaged raises an OSError when that place is reached.
    """
    with path.open("rb") as raw:
        codec = next((codec for magic, codec in _CODECS.items() if raw.peek(4).startswith(magic)), None)
        yield raw, pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), codec) if codec else raw


def as_text(stream: BinaryIO, encoding: str, newline: str | None = None) -> TextIO:
    """The stream as text, without a byte order mark; what does not fit the encoding becomes U+FFFD.

    Raises:
        UserError: there is no such encoding.
    """
    try:
        bom = encoding.lower().replace("_", "-") in ("utf-8", "utf8")
        return io.TextIOWrapper(stream, "utf-8-sig" if bom else encoding, errors="replace", newline=newline)
    except LookupError:
        raise UserError(f"captions.corpus.encoding: there is no text encoding '{encoding}'") from None


def lines(text: TextIO) -> Iterator[str]:
    """The lines of ``text`` with their ends; one of more than `LONGEST` characters comes in pieces."""
    return iter(lambda: text.readline(LONGEST), "")


def elements(text: TextIO, key: str) -> Iterator[Any]:
    """The elements of the array under ``key`` in the JSON object that ``text`` is, one at a time.

    Nothing else is kept, so the object may be larger than memory where no single element is.

    Raises:
        ValueError: the text is no JSON object, or ends too early.
    """
    scanner = _Scanner(text)
    scanner.take("{")
    while scanner.peek() != "}":
        name = scanner.value()
        scanner.take(":")
        if scanner.peek() != "[":
            scanner.value()
        else:
            yield from (element for element in scanner.array() if name == key)
        if scanner.take(",}") == "}":
            return


class _Scanner:
    """Goes through a JSON text that is read in blocks."""

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self._buffer, self._at = "", 0
        self._decode = json.JSONDecoder().raw_decode

    def _read_on(self) -> bool:
        block = self._text.read(BLOCK)
        self._buffer, self._at = self._buffer[self._at :] + block, 0
        return bool(block)

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            found = _SPACE.match(self._buffer, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._read_on():
                return ""

    def take(self, expected: str) -> str:
        """Go past the next character that is no space, which must be one of ``expected``."""
        found = self.peek()
        if not found or found not in expected:
            raise ValueError(f"expected {' or '.join(expected)}, found {found or 'the end'}")
        self._at += 1
        return found

    def value(self) -> Any:
        """Go past the next value. One that no delimiter follows may go on behind what is read, as ``1.`` may."""
        self.peek()
        while True:
            reason = "it ends too early"
            try:
                value, end = self._decode(self._buffer, self._at)
            except (ValueError, RecursionError) as error:
                reason, end = getattr(error, "msg", "nested too deeply"), len(self._buffer)
            if self._buffer[end : end + 1] in _DELIMITERS:
                self._at = end
                return value
            if len(self._buffer) - self._at > LONGEST or not self._read_on():
                raise ValueError(reason)

    def array(self) -> Iterator[Any]:
        """The elements of the array that comes next."""
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        while True:
            yield self.value()
            if self.take(",]") == "]":
                return
