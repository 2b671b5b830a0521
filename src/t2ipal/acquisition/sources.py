"""Where a file is had from: where a user has put it, else mirrors, else its official addresses."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from t2ipal.acquisition.catalogue import Archive, copies, local_directory, part_of
from t2ipal.acquisition.download import Download, Part, Patience, RefusedError
from t2ipal.acquisition.notices import host, say, shown
from t2ipal.errors import UserError


@dataclass(frozen=True)
class Obtained:
    """A file that is all there and has the right size and checksum.

    ``address`` is where it is from. ``bytes`` were downloaded now, in ``seconds``. Only what is ``ours`` may be
    deleted.
    """

    path: Path
    address: str
    ours: bool = False
    bytes: int = 0
    seconds: float = 0.0


def obtain(archive: Archive, downloads: Path, mirrors: Sequence[str], key: str, patience: Patience) -> Obtained:
    """The file, checked. What is on this machine stays where it is; what is downloaded becomes a ``.part``.

    Raises:
        UserError: what the user has put there is another file, or no address gives it. ``key`` is the config key by
            which a user names data of his own.
    """
    for place in copies(archive, downloads):
        complaint = _complaint(archive, place)
        if complaint:
            raise UserError(f"{place} is not the published file: it {complaint}; delete it or put the right one there")
        return Obtained(place, str(place))
    tried: list[str] = []
    for address in _addresses(archive, mirrors):
        try:
            if isinstance(address, Path):
                return _local(archive, address)
            return _remote(archive, address, downloads, patience)
        except RefusedError as error:
            tried.append(f"{host(str(address))}: {error}")
            say(f"{archive.name}: {tried[-1]}")
    addresses = f"any of {len(tried)} addresses (last: {tried[-1]})" if len(tried) > 1 else f"its address ({tried[-1]})"
    raise UserError(
        f"cannot download {archive.name} from {addresses}; put the file into {downloads} yourself, name a mirror in "
        f"benchmark.mirrors, or set {key} to the data"
    )


def _addresses(archive: Archive, mirrors: Sequence[str]) -> list[Path | str]:
    found: list[Path | str] = []
    for mirror in mirrors:
        directory = local_directory(mirror)
        found.append(f"{mirror.rstrip('/')}/{archive.name}" if directory is None else directory / archive.name)
    return [*found, *archive.urls]


def _local(archive: Archive, path: Path) -> Obtained:
    if not path.is_file():
        raise RefusedError("no such file")
    try:
        complaint = _complaint(archive, path)
    except OSError as error:
        raise RefusedError(error.strerror or str(error)) from None
    if complaint:
        raise RefusedError(complaint)
    return Obtained(path, str(path))


def _remote(archive: Archive, url: str, downloads: Path, patience: Patience) -> Obtained:
    part, started = Part(part_of(archive, downloads)), time.monotonic()
    say(f"{archive.name}: {shown(url)}")
    download = Download(url, archive, part, patience)
    patched = download.run()
    complaint = _complaint(archive, part.path)
    if complaint and patched:
        # Some earlier answer may be to blame; this address has a right to be asked for the whole file.
        say(f"{archive.name}: {complaint}, put together from several answers; beginning anew")
        part.discard()
        download.run()
        complaint = _complaint(archive, part.path)
    if complaint:
        part.discard()
        raise RefusedError(complaint)
    return Obtained(part.path, shown(url), ours=True, bytes=download.received, seconds=time.monotonic() - started)


def _complaint(archive: Archive, path: Path) -> str | None:
    say(f"{archive.name}: checking {path}")
    return archive.complaint(path)
