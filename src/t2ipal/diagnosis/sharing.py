"""Whether all nodes of a cluster see the same files, as far as this machine can tell."""

from __future__ import annotations

import fcntl
import sys
import tempfile
from pathlib import Path

from t2ipal.diagnosis.findings import Check, Finding, fail, ok, warn
from t2ipal.errors import UserError
from t2ipal.preflight import check_writable

MOUNTS = Path("/proc/self/mounts")
# Kinds of file system that belong to one machine.
_LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "ramfs", "overlay", "squashfs"}


def file_system(path: Path, mounts: str) -> str:
    """The kind of file system that ``path`` lies on, by a table as ``/proc/self/mounts``; empty if it is not there."""
    found, kind = Path(), ""
    for line in mounts.splitlines():
        _, point, name, *_ = line.split(" ")
        mount = Path(point.encode().decode("unicode_escape"))
        if path.is_relative_to(mount) and len(mount.parts) >= len(found.parts):
            found, kind = mount, name
    return kind


def _kind(path: Path) -> str:
    return file_system(path.resolve(), MOUNTS.read_text(encoding="utf-8"))


def _writable(results: Path) -> Finding:
    try:
        check_writable(results)
    except UserError as error:
        return fail(str(error), "set results to a directory that you may write to")
    return ok(f"'{results.resolve()}' can be written to")


def _shared(path: Path, what: str, mend: str) -> Finding:
    kind = _kind(path)
    if kind in _LOCAL:
        return warn(f"{what} lies on {kind}, which is most often a disk of this machine alone", mend)
    return ok(f"{what} lies on {kind or 'a file system of unknown kind'}")


def _locks(results: Path) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=results) as probe:
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return warn(
            f"files there cannot be locked ({error.strerror}), so two runs at once are not refused",
            "start one run at a time, or ask for the file system's option flock",
        )
    return ok("two runs at once are refused")


def checks(results: Path) -> list[Check]:
    """The checks for a results directory and this Python environment."""
    move = "put {} where all nodes see it, as your home or project directory"
    return [
        Check("results", lambda: _writable(results)),
        Check("shared", lambda: _shared(results, "the results directory", move.format("it"))),
        Check("python", lambda: _shared(Path(sys.prefix), "this Python environment", move.format("it"))),
        Check("locks", lambda: _locks(results)),
    ]
