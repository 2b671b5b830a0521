"""Archives that are damaged or mean harm put nothing anywhere; good ones are unpacked as they are."""

from __future__ import annotations

import io
import random
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from t2ipal.acquisition.extraction import ArchiveError, unpack

FILES = {"top/a.txt": b"a" * 1000, "top/below/b.bin": bytes(range(256)) * 300, "c": b""}


def _tar(path: Path, mode: str = "w", files: dict[str, bytes] = FILES, *more: tarfile.TarInfo) -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in more:
            archive.addfile(info)
    return path


def _zip(path: Path, files: dict[str, bytes] = FILES, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def _unpacked(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def target(tmp_path):
    found = tmp_path / "target"
    found.mkdir()
    return found


MAKERS: dict[str, Callable[[Path], Path]] = {
    "tar": lambda path: _tar(path),
    "tar.gz": lambda path: _tar(path, "w:gz"),
    "zip": lambda path: _zip(path),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_every_kind_is_unpacked_whole(kind, tmp_path, target):
    archive = MAKERS[kind](tmp_path / "archive")
    assert unpack(archive, kind, target, 100_000) == sum(map(len, FILES.values()))
    assert _unpacked(target) == FILES


def test_directories_of_the_archive_may_stand_in_it(tmp_path, target):
    folder = tarfile.TarInfo("top")
    folder.type = tarfile.DIRTYPE
    archive = _tar(tmp_path / "archive", "w", FILES, folder)
    unpack(archive, "tar", target, 100_000)
    assert _unpacked(target) == FILES


def test_permissions_of_the_archive_are_not_taken_over(tmp_path, target):
    info = tarfile.TarInfo("program")
    info.mode = 0o4777
    unpack(_tar(tmp_path / "archive", "w", {}, info), "tar", target, 10)
    assert (target / "program").stat().st_mode & (stat.S_ISUID | stat.S_IXUSR | stat.S_IWOTH) == 0


@pytest.mark.parametrize("name", ["/outside", "../outside", "top/../../outside", "top\\..\\outside"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_nothing_gets_outside(kind, name, tmp_path, target):
    make = _tar if kind == "tar" else _zip
    archive = make(tmp_path / "archive", **{"files": {name: b"x"}})
    before = {path for path in tmp_path.rglob("*")}
    with pytest.raises(ArchiveError, match="outside its own directory"):
        unpack(archive, kind, target, 100)
    assert {path for path in tmp_path.rglob("*")} == before
    assert not Path("/outside").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_a_tar_with_links_or_devices_is_refused(kind, tmp_path, target):
    info = tarfile.TarInfo("innocent")
    info.type, info.linkname = kind, "/etc/passwd"
    with pytest.raises(ArchiveError, match=r"link or a device \('innocent'\)"):
        unpack(_tar(tmp_path / "archive", "w", {}, info), "tar", target, 100)
    assert _unpacked(target) == {}


def test_a_file_is_not_written_through_a_link(tmp_path, target):
    link = tarfile.TarInfo("way")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    with tarfile.open(tmp_path / "archive", "w") as archive:
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("way/file"))
    with pytest.raises(ArchiveError, match="link"):
        unpack(tmp_path / "archive", "tar", target, 100)
    assert not any((tmp_path / "elsewhere").iterdir())


def test_a_zip_with_a_link_is_refused(tmp_path, target):
    info = zipfile.ZipInfo("innocent")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(ArchiveError, match="link or a device"):
        unpack(tmp_path / "archive", "zip", target, 100)


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_a_bomb_is_stopped_at_the_limit(kind, tmp_path, target):
    bomb = {"bomb": bytes(50_000_000)}
    archive = _zip(tmp_path / "bomb", bomb) if kind == "zip" else _tar(tmp_path / "bomb", "w:gz", bomb)
    assert archive.stat().st_size < 100_000
    with pytest.raises(ArchiveError, match="more than 3000000 bytes"):
        unpack(archive, kind, target, 3_000_000)
    assert sum(len(content) for content in _unpacked(target).values()) <= 3_000_000


def test_many_files_count_together(tmp_path, target):
    archive = _tar(tmp_path / "archive", "w", {f"{number}": b"x" * 400 for number in range(10)})
    with pytest.raises(ArchiveError, match="more than 3999 bytes"):
        unpack(archive, "tar", target, 3999)


@pytest.mark.parametrize("kind", MAKERS)
def test_an_archive_that_is_cut_off_is_damaged_or_has_fewer_files(kind, tmp_path, target):
    archive = MAKERS[kind](tmp_path / "archive")
    whole = archive.read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 3])
    with pytest.raises(ArchiveError, match="is damaged"):
        unpack(tmp_path / "cut", kind, target, 100_000)


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_a_wrong_byte_is_noticed(kind, tmp_path, target):
    files = {"noise": random.Random(0).randbytes(50_000)}
    archive = _zip(tmp_path / "archive", files) if kind == "zip" else _tar(tmp_path / "archive", "w:gz", files)
    spoilt = bytearray(archive.read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    archive.write_bytes(spoilt)
    with pytest.raises(ArchiveError, match="is damaged"):
        unpack(archive, kind, target, 100_000)


@pytest.mark.parametrize("kind", MAKERS)
def test_what_is_no_archive_is_damaged(kind, tmp_path, target):
    (tmp_path / "page").write_text("<html>Not found</html>" * 50)
    with pytest.raises(ArchiveError, match="is damaged"):
        unpack(tmp_path / "page", kind, target, 100_000)


@pytest.mark.parametrize("second", ["same", "same/below"])
def test_one_name_twice_is_refused(second, tmp_path, target):
    first, again = tarfile.TarInfo("same"), tarfile.TarInfo(second)
    with pytest.raises(ArchiveError, match="'same' twice"):
        unpack(_tar(tmp_path / "archive", "w", {}, first, again), "tar", target, 100)


def test_an_encrypted_zip_is_refused(tmp_path, target):
    archive = _zip(tmp_path / "archive", {"secret": b"x"}, zipfile.ZIP_STORED)
    content = bytearray(archive.read_bytes())
    content[6] |= 1  # flags of the local header
    content[content.index(b"PK\x01\x02") + 8] |= 1  # flags in the table of contents
    archive.write_bytes(content)
    with pytest.raises(ArchiveError, match="encrypted"):
        unpack(archive, "zip", target, 100)


def test_a_hole_is_counted_with_the_bytes_that_it_stands_for(tmp_path, target):
    # A GNU sparse entry: 512 bytes in the archive, a million on the disk.
    info = tarfile.TarInfo("sparse")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:398], header[398:410] = b"%011o\0" % 999_488, b"%011o\0" % 512
    header[483:495] = b"%011o\0" % 1_000_000
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "archive").write_bytes(bytes(header) + b"x" * 512 + bytes(1024))
    with pytest.raises(ArchiveError, match="more than 10000 bytes"):
        unpack(tmp_path / "archive", "tar", target, 10_000)
