"""Unpacking of archives that nobody vouches for: nothing gets outside, is a link, or grows beyond what is expected."""

from __future__ import annotations

import gzip
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from t2ipal.acquisition.catalogue import Kind
from t2ipal.progress import Progress

_BLOCK = 1 << 20
_MEGABYTE = 1_000_000
_ENCRYPTED = 1
# What zipfile and tarfile raise for archives that are cut off, damaged, or of a kind that they do not know.
_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error),
    *(EOFError, NotImplementedError, ValueError),
)


class ArchiveError(Exception):
    """An archive that is damaged or not what it is to be; the message goes behind its name."""


@dataclass(frozen=True)
class _Entry:
    name: str
    is_directory: bool
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, kind: Kind, target: Path, most: int) -> int:
    """Unpack a ``tar``, ``tar.gz`` or ``zip`` into the directory ``target``; the bytes of all files.

    Only regular files and directories are made, with the permissions of new files; ``target`` holds no others yet.

    Raises:
        ArchiveError: it is damaged, holds a link, a device or an entry that leads outside ``target``, one name twice,
            or more than ``most`` bytes.
    """
    size = 0
    with Progress(f"unpacking {archive.name}", most // _MEGABYTE, "MB") as progress, _reading():
        for entry in _entries(archive, kind):
            path = target / inside(entry.name)
            if entry.is_directory:
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with entry.open() as source, path.open("xb") as sink:
                while block := source.read(_BLOCK):
                    size += len(block)
                    if size > most:
                        raise ArchiveError(f"unpacks to more than {most} bytes")
                    sink.write(block)
            progress.advance(size // _MEGABYTE - progress.done)
    return size


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise ArchiveError(f"is damaged ({str(error) or type(error).__name__})") from None
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise ArchiveError(f"holds '{Path(error.filename).name}' twice") from None


def inside(name: str) -> PurePosixPath:
    """The path of an entry, which is relative and goes up nowhere.

    Raises:
        ArchiveError: it is not.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ArchiveError(f"holds an entry outside its own directory ('{name}')")
    return path


def _entries(archive: Path, kind: Kind) -> Iterator[_Entry]:
    return _zip_entries(archive) if kind == "zip" else _tar_entries(archive, kind)


def _tar_entries(archive: Path, kind: Kind) -> Iterator[_Entry]:
    with (
        gzip.open(archive) if kind == "tar.gz" else archive.open("rb") as stream,
        tarfile.open(fileobj=stream, mode="r:") as handle,
    ):
        for member in handle:
            if not (member.isfile() or member.isdir()):
                raise ArchiveError(f"holds a link or a device ('{member.name}')")
            yield _Entry(member.name, member.isdir(), partial(_content, handle, member))
        # The checksum of gzip stands behind all that tarfile has read.
        while stream.read(_BLOCK):
            pass


def _content(handle: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    found = handle.extractfile(member)
    if found is None:
        raise ArchiveError(f"holds '{member.name}', which is no file")
    return found


def _zip_entries(archive: Path) -> Iterator[_Entry]:
    with zipfile.ZipFile(archive) as handle:
        for member in handle.infolist():
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ArchiveError(f"holds a link or a device ('{member.filename}')")
            if member.flag_bits & _ENCRYPTED:
                raise ArchiveError("is encrypted")
            yield _Entry(member.filename, member.is_dir(), partial(handle.open, member))
