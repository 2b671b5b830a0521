"""One file from one address on the net: resumed where it was broken off, never longer than it is to be."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from requests import Response
from requests.exceptions import InvalidSchema, InvalidURL, MissingSchema, TooManyRedirects
from urllib3.exceptions import HTTPError

from t2ipal.acquisition.catalogue import Archive
from t2ipal.acquisition.notices import host, is_distrusted, reason, say
from t2ipal.io import write_json
from t2ipal.progress import Progress

# Bytes that are read at once, and lost at the most where a connection is reset.
_BLOCK = 1 << 16
_MEGABYTE = 1_000_000
_REDIRECTS = 10
# What a server may get over: too slow a request, too many of them, and its own failures.
_PASSING = {408, 425, 429, 500, 502, 503, 504, 507, 509, 520, 521, 522, 523, 524}
# What no second attempt changes.
_FINAL = (InvalidSchema, InvalidURL, MissingSchema, TooManyRedirects)
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_BEYOND = re.compile(r"bytes \*/(\d+)")


class RefusedError(Exception):
    """An address does not give the file, and will not soon; the message says why."""


class BrokenError(Exception):
    """An attempt failed that may be repeated, after ``pause`` seconds if the server asks for some."""

    def __init__(self, reason: str, pause: float = 0) -> None:
        super().__init__(reason)
        self.pause = pause


@dataclass(frozen=True)
class Patience:
    """``attempts`` in a row that get no further than the first of them, and seconds between them and for answers."""

    attempts: int = 6
    first_pause: float = 1.0
    longest_pause: float = 60.0
    connect: float = 15.0
    answer: float = 60.0

    def pause(self, failures: int, asked: float) -> float:
        """Seconds before the attempt that follows ``failures`` failed ones: doubled each time, or as asked for."""
        return min(max(self.first_pause * 2.0 ** (failures - 1), asked), self.longest_pause)


class Part:
    """What there is of a file, and beside it (``.json``) where it is from and which version of the file it is."""

    def __init__(self, path: Path) -> None:
        self.path, self.label = path, path.with_name(f"{path.name}.json")

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def discard(self) -> None:
        """Forget what is there."""
        self.path.unlink(missing_ok=True)
        self.label.unlink(missing_ok=True)

    def begin(self, url: str, headers: Any) -> None:
        """Begin anew with what ``url`` gives; its ETag or else its date tells this version of it from others."""
        self.discard()
        tag = headers.get("ETag", "")
        strong = tag if tag.startswith('"') else None
        write_json(self.label, {"url": url, "version": strong or headers.get("Last-Modified")})

    def conditions(self, url: str, checked: bool) -> dict[str, str] | None:
        """Headers of a request for the rest from ``url``; None if it has to begin anew.

        The server itself sees to it that the file is still the same one. Where it cannot, or another one gave the
        first bytes, a checksum will tell: ``checked`` says that there is one.
        """
        known = self._label()
        if not self.size or known is None:
            return None
        wanted = {"Range": f"bytes={self.size}-"}
        if known.get("url") == url and known.get("version"):
            return {**wanted, "If-Range": known["version"]}
        return wanted if checked else None

    def _label(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self.label.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None


@dataclass
class Download:
    """The download of ``archive`` from ``url`` into ``part``; ``received`` counts bytes."""

    url: str
    archive: Archive
    part: Part
    patience: Patience

    def __post_init__(self) -> None:
        self.session = requests.Session()
        self.session.max_redirects = _REDIRECTS
        self.resumable, self.received = True, 0

    def run(self) -> bool:
        """Complete the part; whether it is put together from several answers.

        Raises:
            RefusedError: the address does not give the file. What came of it is kept if it may be continued.
        """
        failures, furthest = 0, self.part.size
        with self.session:
            while True:
                try:
                    return self._attempt()
                except BrokenError as error:
                    failures = 1 if self.part.size > furthest else failures + 1
                    furthest = max(furthest, self.part.size)
                    if failures >= self.patience.attempts:
                        raise RefusedError(str(error)) from None
                    pause = self.patience.pause(failures, error.pause)
                    say(f"{self.archive.name}: {host(self.url)}: {error}; trying again in {pause:g} seconds")
                    time.sleep(pause)

    def _attempt(self) -> bool:
        checked = self.archive.checksum is not None
        if checked and self.part.size == self.archive.bytes:
            return True
        if self.part.size > self.archive.most:
            self.part.discard()
        rest = self.part.conditions(self.url, checked) if self.resumable else None
        patience = self.patience
        try:
            with self.session.get(
                self.url,
                headers={"Accept-Encoding": "identity", "User-Agent": "t2ipal", **(rest or {})},
                stream=True,
                timeout=(patience.connect, patience.answer),
            ) as response:
                return self._receive(response)
        except (requests.RequestException, HTTPError) as error:
            kind = RefusedError if isinstance(error, _FINAL) or is_distrusted(error) else BrokenError
            raise kind(reason(error, patience.answer)) from None

    def _receive(self, response: Response) -> bool:
        status = response.status_code
        if status == 200:
            self._receive_whole(response)
        elif status == 206:
            self._check_rest(response)
            self._write(response, packed=False)
        elif status == 416:
            self._check_end(response)
        elif status in _PASSING:
            raise BrokenError(f"{status} {response.reason}", _asked_pause(response))
        else:
            raise RefusedError(f"{status} {response.reason}")
        return status != 200

    def _receive_whole(self, response: Response) -> None:
        headers, packed = response.headers, self._is_packed(response)
        length = headers.get("Content-Length", "")
        if headers.get("Content-Type", "").startswith("text/html"):
            raise RefusedError("gives a web page instead of the file")
        if length.isdecimal() and not packed and not self.archive.has_size(int(length)):
            raise RefusedError(f"offers {length} bytes instead of {self.archive.bytes}")
        self.part.begin(self.url, {} if packed else headers)
        self._write(response, packed)

    def _check_end(self, response: Response) -> None:
        """There is nothing behind what is there: it is whole if the server's file has just this size."""
        found = _BEYOND.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != self.part.size or not self.archive.has_size(self.part.size):
            self._begin_anew(f"has no byte {self.part.size}")

    def _check_rest(self, response: Response) -> None:
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != self.part.size or "Content-Encoding" in response.headers:
            self.resumable = False
            self._begin_anew("sends another part than was asked for")
        elif found[2] != "*" and not self.archive.has_size(int(found[2])):
            raise RefusedError(f"offers {found[2]} bytes instead of {self.archive.bytes}")

    def _begin_anew(self, why: str) -> None:
        self.part.discard()
        raise BrokenError(why)

    def _is_packed(self, response: Response) -> bool:
        """Whether the server packed the file for the way, though it was asked not to.

        Some name the packing of a ``.tar.gz`` itself here; its size tells.
        """
        coded = response.headers.get("Content-Encoding", "identity") != "identity"
        return coded and response.headers.get("Content-Length") != str(self.archive.bytes)

    def _write(self, response: Response, packed: bool) -> None:
        """Append the body; what arrives before a failure stays."""
        what, total = f"download of {self.archive.name}", self.archive.bytes // _MEGABYTE
        size = self.part.size
        with Progress(what, total, "MB", size // _MEGABYTE) as progress, self.part.path.open("ab") as handle:
            for block in response.raw.stream(_BLOCK, decode_content=packed):
                size += len(block)
                self.received += len(block)
                if size > self.archive.most:
                    break
                handle.write(block)
                progress.advance(size // _MEGABYTE - progress.done)
        if size > self.archive.most:
            self.part.discard()
            raise RefusedError(f"sends more than {self.archive.bytes} bytes")
        if not self.archive.has_size(size):
            raise BrokenError(f"breaks off after {size} of {self.archive.bytes} bytes")


def _asked_pause(response: Response) -> float:
    """Seconds that the server asks to be left alone for; 0 if it does not say, or says it as a date."""
    asked = response.headers.get("Retry-After", "")
    return float(asked) if asked.isdecimal() else 0.0
