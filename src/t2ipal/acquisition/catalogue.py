"""What can be downloaded (``archives.yaml``): light enough to be asked while Snakemake parses the workflow."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

import yaml
from pydantic import Field

from t2ipal.errors import UserError
from t2ipal.io import digest
from t2ipal.settings.base import Strict

Kind = Literal["tar", "tar.gz", "zip", "file"]
# How far a file may be from a size that is published in rounded figures only.
_ROUNDING = 0.05


class Archive(Strict):
    """One file to download: an archive that is unpacked into ``directory``, or a ``file`` that is put there as it is.

    ``bytes`` is its size, ``rounded`` where no exact one is published. ``checksum`` is ``md5:`` or ``sha256:`` with
    hexadecimal digits; None where none is published.
    """

    urls: tuple[Annotated[str, Field(pattern=r"^https?://[^/]+/.*[^/]$")], ...] = Field(min_length=1)
    bytes: int = Field(gt=0)
    rounded: bool = False
    checksum: Annotated[str, Field(pattern=r"^(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})$")] | None
    kind: Kind
    directory: str

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.urls[0].rpartition("/")[2]

    def has_size(self, size: int) -> bool:
        """Whether a file of ``size`` bytes may be it."""
        return abs(size - self.bytes) <= self.bytes * _ROUNDING if self.rounded else size == self.bytes

    @property
    def most(self) -> int:
        """Bytes that it cannot exceed."""
        return int(self.bytes * (1 + _ROUNDING)) if self.rounded else self.bytes

    def complaint(self, path: Path) -> str | None:
        """Why the file at ``path`` is not this one; None if it is."""
        size = path.stat().st_size
        if not self.has_size(size):
            return f"has {size} bytes instead of {self.bytes}"
        if self.checksum is None:
            return None
        algorithm, _, wanted = self.checksum.partition(":")
        with path.open("rb") as handle:
            found = hashlib.file_digest(handle, algorithm).hexdigest()
        return None if found == wanted else f"has {algorithm} {found} instead of {wanted}"


class Item(Strict):
    """What is downloaded together. ``expected`` has the number of files for glob patterns below the downloads.

    ``terms`` is a note on its licence, ``home`` its page, ``key`` the config key by which own copies of it are named.
    """

    name: str
    home: str
    terms: str
    key: str = "benchmark.path"
    files: tuple[Archive, ...] = Field(min_length=1)
    unpacked_bytes: int = Field(gt=0)
    expected: dict[str, Annotated[int, Field(gt=0)]] = Field(min_length=1)

    @property
    def identity(self) -> str:
        """Twelve hexadecimal digits that change with its content."""
        return digest([archive.checksum or [archive.name, archive.bytes] for archive in self.files])

    @property
    def bytes(self) -> int:
        """Bytes to download."""
        return sum(archive.bytes for archive in self.files)

    def manifest(self, downloads: Path) -> Path:
        """What is written last, when all of it is there: ``<downloads>/<item>.json``."""
        return downloads / f"{self.name}.json"


def load(path: Path) -> Mapping[str, Item]:
    """The items of a catalogue file, by name."""
    return _parse(path.read_text(encoding="utf-8"))


@cache
def items() -> Mapping[str, Item]:
    """The items of the shipped catalogue, by name."""
    return _parse(files("t2ipal.acquisition").joinpath("archives.yaml").read_text(encoding="utf-8"))


def _parse(text: str) -> dict[str, Item]:
    entries: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return {name: Item(name=name, **entry) for name, entry in entries.items()}


def item(name: str) -> Item:
    """The item of that name.

    Raises:
        UserError: there is none; names those that there are.
    """
    found = items().get(name)
    if found is None:
        raise UserError(f"the catalogue has no '{name}': it has {', '.join(items())}")
    return found


def owner(pattern: str, downloads: Path) -> Item | None:
    """The item that brings the file or files of a path or glob pattern; None where no item does.

    Raises:
        UserError: it stands for files of more than one item.
    """
    relative = os.path.relpath(os.path.abspath(pattern), os.path.abspath(downloads))
    found = [
        candidate
        for candidate in items().values()
        if any(fnmatchcase(relative, known) or fnmatchcase(known, relative) for known in candidate.expected)
    ]
    if len(found) > 1:
        names = ", ".join(candidate.name for candidate in found)
        raise UserError(f"'{pattern}' stands for files of several downloads ({names}); name the files one by one")
    return found[0] if found else None


def local_directory(mirror: str) -> Path | None:
    """The directory that a mirror is, given as path or ``file://`` address; None if it is an address on the net."""
    if "://" not in mirror:
        return Path(mirror).expanduser()
    parts = urlsplit(mirror)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def copies(archive: Archive, downloads: Path) -> list[Path]:
    """Where a user may have put the file: into the directory of downloads, and what is not unpacked to its place."""
    places = [downloads / archive.name]
    if archive.kind == "file":
        places.append(downloads / archive.directory / archive.name)
    return [place for place in places if place.is_file()]


def part_of(archive: Archive, downloads: Path) -> Path:
    """Where the file is kept while it is downloaded and until it is unpacked."""
    return downloads / f"{archive.name}.part"


def needed_bytes(wanted: Iterable[Item], downloads: Path, mirrors: Sequence[str] = ()) -> int:
    """Bytes of disk below ``downloads`` for what is not there yet: what is left to download, and all of it unpacked.

    An archive is deleted as soon as it is unpacked, so this is enough for all items at once and more than is kept.
    """
    return sum(
        found.unpacked_bytes + left_bytes(found, downloads, mirrors)
        for found in wanted
        if not found.manifest(downloads).is_file()
    )


def left_bytes(wanted: Item, downloads: Path, mirrors: Sequence[str] = ()) -> int:
    """Bytes of an item that are still to be downloaded: files at hand and what there is of others do not count."""
    return sum(_left(archive, downloads, mirrors) for archive in wanted.files)


def _left(archive: Archive, downloads: Path, mirrors: Sequence[str]) -> int:
    local = [folder for folder in map(local_directory, mirrors) if folder]
    if copies(archive, downloads) or any((folder / archive.name).is_file() for folder in local):
        return 0
    part = part_of(archive, downloads)
    return max(archive.bytes - part.stat().st_size, 0) if part.is_file() else archive.bytes
