"""The disk that downloads need against what is free: light enough to be asked before a run starts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from t2ipal.acquisition.catalogue import Item, left_bytes, needed_bytes
from t2ipal.errors import UserError


def render(items: Sequence[Item], downloads: Path, mirrors: Sequence[str] = ()) -> str:
    """A line for each of ``items`` that is not there yet, and one on the disk they need below ``downloads``.

    Empty where all are there. The directory need not be there yet.
    """
    wanted = _absent(items, downloads)
    if not wanted:
        return ""
    left = [left_bytes(found, downloads, mirrors) for found in wanted]
    kept, needed = sum(found.unpacked_bytes for found in wanted), needed_bytes(wanted, downloads, mirrors)
    lines = [f"  {_line(found, size)}\n" for found, size in zip(wanted, left, strict=True)]
    return (
        f"Downloads to {downloads}:\n{''.join(lines)}"
        f"Together: {shown_bytes(sum(left))} to download; {shown_bytes(needed)} of disk until all is unpacked, "
        f"{shown_bytes(kept)} afterwards; {shown_bytes(free_bytes(downloads))} are free."
    )


def check_rooms(items: Sequence[Item], downloads: Path, mirrors: Sequence[str] = ()) -> None:
    """Check that the disk of ``downloads``, which need not be there yet, holds what all of ``items`` still need.

    Raises:
        UserError: it does not; says how much is needed and how much is free.
    """
    wanted = _absent(items, downloads)
    needed, free = needed_bytes(wanted, downloads, mirrors), free_bytes(downloads)
    if needed > free:
        names = ", ".join(f"'{found.name}'" for found in wanted)
        what = f"download {names} needs" if len(wanted) == 1 else f"downloads {names} need"
        raise UserError(
            f"{what} {shown_bytes(needed)} below {downloads}, where {shown_bytes(free)} are free; "
            f"make room or set config key 'benchmark.downloads' to a directory on another disk"
        )


def shown_bytes(size: int) -> str:
    """Bytes for a reader: ``13.5 GB``, and megabytes below one."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _absent(items: Sequence[Item], downloads: Path) -> list[Item]:
    once = {found.name: found for found in items}.values()
    return [found for found in once if not found.manifest(downloads).is_file()]


def _line(wanted: Item, left: int) -> str:
    size = f"{shown_bytes(left)} to download" if left else "at hand"
    if 0 < left < wanted.bytes:
        size += f" (of {shown_bytes(wanted.bytes)})"
    return f"{wanted.name}: {size}, {shown_bytes(wanted.unpacked_bytes)} unpacked"


def free_bytes(directory: Path) -> int:
    """Free bytes of the file system that will hold ``directory``, which may not be there yet."""
    place = directory.absolute()
    # Unlike Path.exists, this raises nothing where one may not look.
    while not os.path.exists(place):
        place = place.parent
    return shutil.disk_usage(place).free
