"""Files that appear whole or not at all, hashes, and canonical JSON."""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any


def matching(pattern: str) -> list[Path]:
    """The files that a path or a glob pattern (``**`` goes into folders) stands for, sorted; none if there is none."""
    if Path(pattern).is_file():
        return [Path(pattern)]
    return sorted(path for path in map(Path, glob.glob(pattern, recursive=True)) if path.is_file())


def _fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(partial: Path, final: Path) -> None:
    """Flush ``partial`` to disk and rename it to ``final`` in the same directory, durably."""
    with partial.open("rb") as handle:
        os.fsync(handle.fileno())
    os.replace(partial, final)
    _fsync_directory(final.parent)


@contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """Yield a path beside ``final`` to write to; it becomes ``final`` only if the block succeeds."""
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.with_name(f".{final.name}.{os.getpid()}.part")
    try:
        yield partial
        publish(partial, final)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def swept_path(final: Path) -> Iterator[Path]:
    """As ``atomic_path``, for large files: what killed writers of ``final`` left is removed first.

    What another process is writing stays: it holds a lock, which the kernel takes from a process that is killed. On a
    disk without locks nothing is removed.
    """
    with ExitStack() as until_published, atomic_path(final) as partial:
        handle = until_published.enter_context(partial.open("wb"))
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        for other in _partials(final):
            if other != partial:
                _remove_unlocked(other)
        yield partial


def _remove_unlocked(path: Path) -> None:
    with suppress(OSError), path.open("r+b") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


def _partials(final: Path) -> Iterator[Path]:
    return final.parent.glob(f".{glob.escape(final.name)}.*.part")


def sweep(final: Path) -> None:
    """Remove what killed writers of ``final`` left beside it. For those only who know that nobody is writing it."""
    for partial in _partials(final):
        partial.unlink(missing_ok=True)


def write_text(final: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(final) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(final: Path, value: Any) -> None:
    """Write indented JSON with sorted keys atomically; NaN is refused."""
    write_text(final, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any, length: int = 12) -> str:
    """Hexadecimal SHA-256 of the canonical JSON of ``value``, cut to ``length`` digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in blocks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
