"""Bytes of a tar archive that depend on names and contents alone, and a reader that survives a torn one."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO

BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Member:
    """A whole file of an archive; ``end`` is the offset behind its padding."""

    name: str
    data: bytes
    end: int


def member(name: str, data: bytes) -> bytes:
    """Header, data and padding of one file: owner 0, time 0, mode 644 (the defaults of ``TarInfo``)."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % BLOCK)


def trailer(size: int) -> bytes:
    """What ends an archive of ``size`` bytes: two zero blocks, then zeros up to a whole record."""
    return bytes(2 * BLOCK + -(size + 2 * BLOCK) % tarfile.RECORDSIZE)


def read_members(handle: FileIO, size: int) -> Iterator[Member]:
    """The whole files from the start of an archive of ``size`` bytes, up to its trailer or the first damage.

    Only what ``member`` would write, to the last byte of padding, counts as undamaged.
    """
    while len(header := handle.read(BLOCK)) == BLOCK:
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            return
        end = handle.tell() + info.size + -info.size % BLOCK
        if not info.isreg() or info.size < 0 or end > size:
            return
        data = handle.read(info.size)
        if member(info.name, data) != header + data + handle.read(end - handle.tell()):
            return
        yield Member(info.name, data, end)
