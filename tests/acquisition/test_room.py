"""What downloads need of the disk is said, and refused where the disk is too small, before anything is there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from t2ipal.acquisition.room import check_rooms, render
from t2ipal.errors import UserError

MEGABYTE = 1_000_000


@pytest.fixture
def one(make_archive, make_item):
    return make_item(make_archive(b"", "one.bin", bytes=400 * MEGABYTE), name="one", unpacked_bytes=500 * MEGABYTE)


@pytest.fixture
def two(make_archive, make_item):
    return make_item(make_archive(b"", "two.bin", bytes=2000 * MEGABYTE), name="two", unpacked_bytes=2500 * MEGABYTE)


@pytest.fixture
def free(monkeypatch):
    """Sets the megabytes that are free; returns the directories that were asked for."""
    asked = []

    def usage(path):
        asked.append(path)
        return SimpleNamespace(free=asked[0] * MEGABYTE)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    return asked


def test_every_download_has_a_line_and_all_of_them_one(one, two, free, tmp_path):
    free.append(9000)
    assert render([one, two, one], tmp_path).splitlines() == [
        f"Downloads to {tmp_path}:",
        "  one: 400.0 MB to download, 500.0 MB unpacked",
        "  two: 2.0 GB to download, 2.5 GB unpacked",
        "Together: 2.4 GB to download; 5.4 GB of disk until all is unpacked, 3.0 GB afterwards; 9.0 GB are free.",
    ]


def test_what_is_there_is_not_counted(one, two, free, tmp_path):
    free.append(9000)
    one.manifest(tmp_path).write_text("{}")
    with (tmp_path / "two.bin.part").open("wb") as part:
        part.truncate(1500 * MEGABYTE)
    assert render([one, two], tmp_path).splitlines()[1:] == [
        "  two: 500.0 MB to download (of 2.0 GB), 2.5 GB unpacked",
        "Together: 500.0 MB to download; 3.0 GB of disk until all is unpacked, 2.5 GB afterwards; 9.0 GB are free.",
    ]
    two.manifest(tmp_path).write_text("{}")
    assert render([one, two], tmp_path) == ""
    assert render([], tmp_path) == ""


def test_a_file_of_a_mirror_on_this_machine_is_at_hand(one, free, tmp_path):
    free.append(9000)
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "one.bin").touch()
    assert "one: at hand, 500.0 MB unpacked" in render([one], tmp_path / "data", [str(tmp_path / "mirror")])


def test_a_disk_is_asked_where_the_directory_will_be(one, free, tmp_path, monkeypatch):
    free.append(900)
    monkeypatch.chdir(tmp_path)
    check_rooms([one], tmp_path / "not" / "yet")
    check_rooms([one], one.manifest(tmp_path / "neither").parent.relative_to(tmp_path))
    assert free[1:] == [tmp_path, tmp_path]
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_for_all_is_refused_though_it_holds_each(one, two, free, tmp_path):
    free.append(5000)
    check_rooms([one], tmp_path / "data")
    check_rooms([two], tmp_path / "data")
    with pytest.raises(UserError, match=r"'one', 'two' need 5\.4 GB below .*data, where 5\.0 GB are free; .*downloads"):
        check_rooms([one, two], tmp_path / "data")


def test_a_real_disk_that_is_too_small_is_refused(one, tmpfs):
    with pytest.raises(UserError, match=r"download 'one' needs 900\.0 MB .*benchmark\.downloads"):
        check_rooms([one], tmpfs(128) / "data")


def test_the_disk_is_asked_without_heavy_libraries():
    program = "import sys, t2ipal.acquisition.room; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "pandas", "requests"} & set(done.stdout.split())
