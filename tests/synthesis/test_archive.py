"""The tar writer and its forgiving reader."""

import io
import tarfile
from pathlib import Path

import pytest

from t2ipal.synthesis.archive import member, read_members, trailer

FILES = {"a.png": b"\x89" * 700, "a.txt": b"", "a.json": b"{}" * 256}


def archive() -> bytes:
    body = b"".join(member(name, data) for name, data in FILES.items())
    return body + trailer(len(body))


def names(path: Path) -> list[str]:
    with path.open("rb", buffering=0) as handle:
        return [item.name for item in read_members(handle, path.stat().st_size)]


def test_tarfile_reads_what_is_written_and_finds_no_owner_or_time() -> None:
    with tarfile.open(fileobj=io.BytesIO(archive())) as tar:
        infos = tar.getmembers()
        assert {info.name: tar.extractfile(info).read() for info in infos} == FILES
    assert {(info.uid, info.gid, info.mtime, info.uname) for info in infos} == {(0, 0, 0, "")}
    assert len(archive()) % tarfile.RECORDSIZE == 0


@pytest.mark.parametrize("size", [0, 512, tarfile.RECORDSIZE - 1024, tarfile.RECORDSIZE - 512, tarfile.RECORDSIZE])
def test_trailer_fills_the_record_and_holds_two_zero_blocks(size: int) -> None:
    end = trailer(size)
    assert 1024 <= len(end) <= 1024 + tarfile.RECORDSIZE
    assert (size + len(end)) % tarfile.RECORDSIZE == 0


def test_a_torn_archive_yields_its_whole_files_at_every_length(tmp_path: Path) -> None:
    path, whole = tmp_path / "torn.tar", archive()
    ends = [512 + 1024, 512 + 1024 + 512, 512 + 1024 + 512 + 512 + 512]
    for length in [0, 1, 511, 512, 1535, 1536, 1537, 2047, 2048, 2500, 3071, 3072, len(whole)]:
        path.write_bytes(whole[:length])
        assert names(path) == list(FILES)[: sum(length >= end for end in ends)], length


def test_reading_stops_at_a_damaged_header(tmp_path: Path) -> None:
    path, damaged = tmp_path / "damaged.tar", bytearray(archive())
    damaged[1536 + 3] ^= 1
    path.write_bytes(damaged)
    assert names(path) == ["a.png"]
