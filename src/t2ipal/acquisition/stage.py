"""Acquisition of an item: obtain its files, unpack them aside, count, move them into place; the manifest comes last."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from t2ipal.acquisition.catalogue import Archive, Item, item
from t2ipal.acquisition.download import Part, Patience
from t2ipal.acquisition.extraction import ArchiveError, unpack
from t2ipal.acquisition.notices import say
from t2ipal.acquisition.room import check_rooms
from t2ipal.acquisition.sources import Obtained, obtain
from t2ipal.errors import UserError
from t2ipal.io import file_sha256, read_json, write_json

FORMAT = 1
# What an archive may hold beyond what the catalogue says that it does.
_SLACK = 1.1


def acquire(name: str, downloads: Path, mirrors: Sequence[str], output: Path) -> None:
    """Download, check and unpack the item of that name below ``downloads`` and write its manifest to ``output``.

    Raises:
        UserError: it is not in the catalogue, or as ``acquire_item``.
    """
    acquire_item(item(name), downloads, mirrors, output)


def acquire_item(
    wanted: Item, downloads: Path, mirrors: Sequence[str], output: Path, patience: Patience | None = None
) -> None:
    """Download, check and unpack an item below ``downloads``; nothing is done where its manifest is true.

    What a killed or failed attempt has downloaded is kept in ``<file>.part`` and continued by the next one. Archives
    that were downloaded are deleted in the end; what a user has put into ``downloads`` or a mirror's directory is not.

    Raises:
        UserError: no address gives a file, one is not what it is to be, or the disk is too small.
    """
    if _is_there(wanted, downloads, output):
        return
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        with _alone(downloads / f".{wanted.name}.lock", wanted.name):
            # Another process may have acquired it meanwhile.
            if not _is_there(wanted, downloads, output):
                output.unlink(missing_ok=True)
                _acquire(wanted, downloads, mirrors, output, patience or Patience())
    except OSError as error:
        raise _unwritable(wanted, downloads, error) from None


def _acquire(wanted: Item, downloads: Path, mirrors: Sequence[str], output: Path, patience: Patience) -> None:
    started = time.monotonic()
    check_rooms([wanted], downloads, mirrors)
    obtained = [obtain(archive, downloads, mirrors, wanted.key, patience) for archive in wanted.files]
    aside = downloads / f".{wanted.name}.unpacking"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        counts = _unpack(wanted, obtained, aside)
        _move(aside, downloads)
    except ArchiveError as error:
        _discard(obtained)
        origins = ", ".join(found.address for found in obtained)
        raise UserError(
            f"{origins} {error}, so it is not the published file; name a mirror in benchmark.mirrors, or put the right "
            f"file into {downloads} yourself"
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    files = [_record(archive, found) for archive, found in zip(wanted.files, obtained, strict=True)]
    manifest = {"format": FORMAT, "item": wanted.name, "identity": wanted.identity, "files": files, "counts": counts}
    write_json(output, {**manifest, "terms": wanted.terms, "seconds": round(time.monotonic() - started, 3)})
    _discard(obtained)


def _discard(obtained: Sequence[Obtained]) -> None:
    for found in obtained:
        if found.ours:
            Part(found.path).discard()


def _is_there(wanted: Item, downloads: Path, output: Path) -> bool:
    """Whether a manifest says that it was acquired, and its files are still there."""
    try:
        manifest: Any = read_json(output)
    except (OSError, ValueError):
        return False
    if not isinstance(manifest, dict) or manifest.get("identity") != wanted.identity:
        return False
    # Items share directories, so that there may be more files than one item brings.
    counts = _counts(wanted, downloads)
    return all(counts[pattern] >= number for pattern, number in wanted.expected.items())


def _counts(wanted: Item, root: Path) -> dict[str, int]:
    return {pattern: sum(1 for _ in root.glob(pattern)) for pattern in wanted.expected}


def _unpack(wanted: Item, obtained: Sequence[Obtained], aside: Path) -> Mapping[str, int]:
    """Unpack all files into ``aside`` and count what is there.

    Raises:
        ArchiveError: one is damaged or dangerous, or too few or too many files are there.
    """
    for archive, found in zip(wanted.files, obtained, strict=True):
        target = aside / archive.directory
        target.mkdir(parents=True, exist_ok=True)
        if archive.kind == "file":
            _place(found.path, target / archive.name)
        else:
            unpack(found.path, archive.kind, target, int(wanted.unpacked_bytes * _SLACK))
    counts = _counts(wanted, aside)
    for pattern, number in wanted.expected.items():
        if counts[pattern] != number:
            raise ArchiveError(f"holds {counts[pattern]} files {pattern} instead of {number}")
    return counts


def _place(source: Path, target: Path) -> None:
    """A second name for a file, or its copy where a file system has no second names or is another one."""
    try:
        # Of a link, the file that it leads to: a second link need not lead there from another place.
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _move(aside: Path, downloads: Path) -> None:
    """Move files to the same places below ``downloads``, whole directories where there is none yet."""
    for entry in sorted(aside.iterdir()):
        target = downloads / entry.name
        try:
            os.replace(entry, target)
        except OSError:
            # Other items may have put theirs into the same directory, even just now.
            if not (entry.is_dir() and target.is_dir()):
                raise
            _move(entry, target)


def _record(archive: Archive, found: Obtained) -> dict[str, Any]:
    speed = found.bytes / 1e6 / found.seconds if found.bytes else None
    return {
        "name": archive.name,
        "from": found.address,
        "bytes": found.path.stat().st_size,
        "checksum": archive.checksum or f"sha256:{file_sha256(found.path)}",
        "downloaded_bytes": found.bytes,
        "seconds": round(found.seconds, 3),
        "megabytes_per_second": speed and round(speed, 3),
    }


def _unwritable(wanted: Item, downloads: Path, error: OSError) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"the disk of {downloads} became full during download '{wanted.name}'; make room and run again: "
            f"what was downloaded is kept and continued"
        )
    where = error.filename or downloads
    return UserError(
        f"cannot read or write {where} for download '{wanted.name}' ({error.strerror or error}); mend its directory"
    )


@contextmanager
def _alone(lock: Path, name: str) -> Iterator[None]:
    """Hold an item while the block lasts; waits for another process that holds it. The kernel frees it after a kill."""
    with lock.open("ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is acquiring {name}; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            say(f"{lock} cannot be locked ({error.strerror}); make sure that no other job acquires {name}")
        yield
