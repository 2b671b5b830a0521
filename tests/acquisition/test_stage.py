"""An item is there whole, with a manifest, or not at all; a kill is got over; no file of a user's is deleted."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from tests.conftest import WAIT

from t2ipal.acquisition import stage
from t2ipal.acquisition.catalogue import Item, item
from t2ipal.acquisition.stage import acquire, acquire_item
from t2ipal.errors import UserError
from t2ipal.io import read_json

IMAGES = {f"kit/images/{number}.jpg": hashlib.sha256(bytes([number])).digest() * 3000 for number in range(4)}
FILES = {**IMAGES, "kit/list.txt": b"0 1 2 3\n"}
EXPECTED = {"kit/images/*.jpg": 4, "kit/list.txt": 1}
WAITING = "t2ipal acquire: another process is acquiring kit; waiting for it\n"


def _tar(files: dict[str, bytes] = FILES, mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _zip(files: dict[str, bytes] = FILES) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def _below(root: Path) -> dict[str, bytes]:
    """Everything below a directory but for locks and manifests."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.suffix not in (".lock", ".json")
    }


@pytest.fixture
def downloads(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def get(downloads, patience):
    """Acquires an item below ``downloads``; its manifest."""

    def acquired(wanted: Item, *mirrors: str):
        acquire_item(wanted, downloads, mirrors, wanted.manifest(downloads), patience)
        return read_json(wanted.manifest(downloads))

    return acquired


@pytest.fixture
def kit(make_archive, make_item):
    """An item of one tar with four images and a list."""

    def make(content: bytes | None = None, name: str = "kit.tar", **changes) -> Item:
        archive = make_archive(_tar() if content is None else content, name, kind="tar", directory=".")
        return make_item(archive, **{"name": "kit", "expected": EXPECTED, **changes})

    return make


PACKERS = {"tar": _tar, "tar.gz": lambda: _tar(mode="w:gz"), "zip": _zip}


@pytest.mark.parametrize("kind", PACKERS)
def test_an_archive_is_unpacked_in_its_directory_and_deleted(kind, get, make_archive, make_item, downloads):
    archive = make_archive(PACKERS[kind](), f"a.{kind}", kind=kind, directory="deep/down")
    get(make_item(archive, expected={f"deep/down/{pattern}": number for pattern, number in EXPECTED.items()}))
    assert _below(downloads) == {f"deep/down/{name}": content for name, content in FILES.items()}


def test_a_file_is_put_into_its_directory_as_it_is(get, make_archive, make_item, content, downloads):
    get(make_item(make_archive(content)))
    assert _below(downloads) == {"files/a.bin": content}


def test_the_manifest_says_what_came_from_where(get, kit, host, downloads):
    wanted = kit()
    manifest = get(wanted)
    (archive,) = wanted.files
    (record,) = manifest.pop("files")
    assert manifest.pop("seconds") >= record.pop("seconds") >= 0
    assert record.pop("megabytes_per_second") > 0
    size = archive.bytes
    address = {"name": "kit.tar", "from": host.url("kit.tar"), "bytes": size, "downloaded_bytes": size}
    assert record == {**address, "checksum": archive.checksum}
    about = {"format": 1, "item": "kit", "identity": wanted.identity, "terms": "none"}
    assert manifest == {**about, "counts": EXPECTED}


def test_a_file_without_published_checksum_is_recorded_with_its_own(get, make_archive, make_item, content):
    (record,) = get(make_item(make_archive(content, checksum=None)))["files"]
    assert record["checksum"] == f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_an_item_of_several_files_has_them_all(get, make_archive, make_item, downloads, host):
    first = make_archive(_tar(IMAGES), "images.tar", kind="tar", directory=".")
    second = make_archive(_zip({"list.txt": b"x"}), "lists.zip", kind="zip", directory="kit")
    manifest = get(make_item(first, second, expected=EXPECTED))
    assert [record["name"] for record in manifest["files"]] == ["images.tar", "lists.zip"]
    assert _below(downloads) == {**IMAGES, "kit/list.txt": b"x"}


def test_what_is_there_is_not_downloaded_again(get, kit, host):
    assert get(kit()) == get(kit())
    assert len(host.requests) == 1


def _lose_a_file(downloads: Path) -> None:
    (downloads / "kit/images/2.jpg").unlink()


def _damage_the_manifest(downloads: Path) -> None:
    (downloads / "kit.json").write_text('{"identity": ')


def _age_the_manifest(downloads: Path) -> None:
    (downloads / "kit.json").write_text(json.dumps({**read_json(downloads / "kit.json"), "identity": "other"}))


@pytest.mark.parametrize("change", [_lose_a_file, _damage_the_manifest, _age_the_manifest])
def test_what_is_not_whole_is_acquired_anew(change, get, kit, host, downloads):
    get(kit())
    change(downloads)
    get(kit())
    assert _below(downloads) == FILES
    assert len(host.requests) == 2


def test_the_manifest_comes_last(get, kit, host, downloads, monkeypatch):
    wanted, seen = kit(), []

    def fail(path: Path, value: object) -> None:
        seen.append(_below(downloads))
        raise OSError(5, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(stage, "write_json", fail)
        with pytest.raises(UserError, match=r"kit\.json .*Input/output error"):
            get(wanted)
    assert seen == [{**FILES, "kit.tar.part": host.files["kit.tar"]}]
    assert not wanted.manifest(downloads).exists()
    get(wanted)
    assert _below(downloads) == FILES
    assert len(host.requests) == 1


@pytest.mark.parametrize("name", ["../outside", "/outside"])
def test_an_archive_that_leads_outside_puts_nothing_anywhere(name, get, kit, downloads, tmp_path):
    wanted = kit(_tar({**FILES, name: b"x"}))
    with pytest.raises(UserError, match=r"127\.0\.0\.1.*kit\.tar holds an entry outside .*benchmark\.mirrors"):
        get(wanted)
    assert {path.name for path in tmp_path.rglob("*")} == {"data", ".kit.lock"}


@pytest.mark.parametrize("more", [{}, {"kit/images/4.jpg": b"", "kit/images/5.jpg": b""}], ids=["few", "many"])
def test_too_few_or_too_many_files_are_refused(more, get, kit, downloads):
    files = {**FILES, **more} if more else {name: FILES[name] for name in list(FILES)[1:]}
    with pytest.raises(UserError, match=rf"holds {6 if more else 3} files kit/images/\*\.jpg instead of 4, so it is"):
        get(kit(_tar(files)))
    assert _below(downloads) == {}
    assert not (downloads / "kit.json").exists()


def test_an_archive_that_grows_too_large_is_refused(get, kit, downloads):
    with pytest.raises(UserError, match="unpacks to more than 220000 bytes"):
        get(kit(unpacked_bytes=200_000))
    assert _below(downloads) == {}


def test_files_that_were_there_stay_when_an_attempt_fails(get, kit, downloads):
    (downloads / "kit").mkdir(parents=True)
    (downloads / "kit" / "mine.txt").write_bytes(b"mine")
    with pytest.raises(UserError):
        get(kit(_tar(IMAGES)))
    assert _below(downloads) == {"kit/mine.txt": b"mine"}
    get(kit())
    assert _below(downloads) == {**FILES, "kit/mine.txt": b"mine"}


def test_a_user_s_own_archive_is_used_and_not_deleted(get, kit, host, downloads):
    wanted = kit()
    downloads.mkdir()
    (downloads / "kit.tar").write_bytes(host.files["kit.tar"])
    (record,) = get(wanted)["files"]
    assert _below(downloads) == {**FILES, "kit.tar": host.files["kit.tar"]}
    assert host.requests == []
    assert record["from"] == str(downloads / "kit.tar")
    assert record["megabytes_per_second"] is None


def test_a_user_s_own_archive_is_not_deleted_though_it_is_dangerous(get, kit, host, downloads):
    wanted = kit(_tar({"../outside": b"x"}))
    downloads.mkdir()
    (downloads / "kit.tar").write_bytes(host.files["kit.tar"])
    with pytest.raises(UserError, match=r"kit\.tar holds an entry outside"):
        get(wanted)
    assert _below(downloads) == {"kit.tar": host.files["kit.tar"]}


def _as_file(place: Path, content: bytes) -> None:
    place.write_bytes(content)


def _as_link(place: Path, content: bytes) -> None:
    (place.parent / "far").mkdir()
    (place.parent / "far" / "away").write_bytes(content)
    place.symlink_to("far/away")


@pytest.mark.parametrize("put", [_as_file, _as_link])
@pytest.mark.parametrize("folder", ["", "files"])
def test_a_user_s_own_file_is_used_and_not_deleted(put, folder, get, make_archive, make_item, content, downloads, host):
    (downloads / folder).mkdir(parents=True)
    mine = downloads / folder / "a.bin"
    put(mine, content)
    get(make_item(make_archive(content)))
    assert mine.read_bytes() == content
    assert (downloads / "files" / "a.bin").read_bytes() == content
    assert host.requests == []


@pytest.mark.parametrize("form", ["path", "file", "http"])
def test_a_mirror_serves_an_item_and_keeps_its_file(form, get, kit, host, downloads, tmp_path):
    wanted = kit()
    packed = host.files.pop("kit.tar")
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "kit.tar").write_bytes(packed)
    host.files["mirror/kit.tar"] = packed
    (record,) = get(wanted, {"path": str(mirror), "file": mirror.as_uri(), "http": host.url("mirror")}[form])["files"]
    assert _below(downloads) == FILES
    assert (mirror / "kit.tar").read_bytes() == packed
    assert record["downloaded_bytes"] == (len(packed) if form == "http" else 0)


def test_a_disk_that_is_too_small_is_told_before_anything_is_asked_for(make_archive, kit, patience, tmpfs, host):
    disk = tmpfs(512)
    wanted = kit()
    with pytest.raises(UserError, match=r"download 'kit' needs 1\.4 MB below .*benchmark\.downloads"):
        acquire_item(wanted, disk / "data", [], wanted.manifest(disk / "data"), patience)
    assert host.requests == []


def test_a_disk_that_becomes_full_ends_with_a_sentence_and_keeps_what_was_downloaded(
    make_archive, make_item, patience, tmpfs, downloads
):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packer:
        packer.writestr("a.bin", bytes(1_050_000))
    archive = make_archive(stream.getvalue(), "a.zip", kind="zip")
    wanted, disk = make_item(archive, unpacked_bytes=1_000_000), tmpfs(1000)
    with pytest.raises(UserError, match=r"became full during download 'tiny'; make room and run again"):
        acquire_item(wanted, disk, [], wanted.manifest(disk), patience)
    assert _below(disk) == {"a.zip.part": stream.getvalue()}


def test_downloads_that_cannot_be_a_directory_are_a_sentence(kit, tmp_path, patience):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(UserError, match=r"cannot read or write .*data for download 'kit'"):
        acquire_item(kit(), tmp_path / "data", [], tmp_path / "kit.json", patience)


def test_leftovers_of_a_kill_while_unpacking_are_cleared_away(get, kit, downloads):
    (downloads / ".kit.unpacking" / "kit" / "images").mkdir(parents=True)
    (downloads / ".kit.unpacking" / "kit" / "images" / "9.jpg").write_bytes(b"half")
    get(kit())
    assert _below(downloads) == FILES


def test_an_unknown_item_is_refused(tmp_path):
    with pytest.raises(UserError, match="no 'imagenet'"):
        acquire("imagenet", tmp_path, [], tmp_path / "imagenet.json")


def test_an_item_of_the_shipped_catalogue_is_acquired_from_a_mirror(downloads, tmp_path):
    # The only one whose file may hold anything: neither an exact size nor a checksum is published.
    wanted = item("openimages-captions")
    (archive,) = wanted.files
    (tmp_path / "mirror").mkdir()
    with (tmp_path / "mirror" / archive.name).open("wb") as file:
        file.truncate(archive.bytes + 12_345)
    acquire(wanted.name, downloads, [str(tmp_path / "mirror")], wanted.manifest(downloads))
    manifest = read_json(wanted.manifest(downloads))
    assert manifest["identity"] == wanted.identity
    assert manifest["files"][0]["bytes"] == archive.bytes + 12_345
    assert [str(path.relative_to(downloads)) for path in downloads.glob("*/*")] == [next(iter(wanted.expected))]


PROGRAM = """
import sys
from pathlib import Path
from t2ipal.acquisition.catalogue import load
from t2ipal.acquisition.download import Patience
from t2ipal.acquisition.stage import acquire_item

catalogue, name, downloads = sys.argv[1:]
wanted = load(Path(catalogue))[name]
patience = Patience(attempts=3, first_pause=0.01, longest_pause=0.05, answer=600)
acquire_item(wanted, Path(downloads), [], wanted.manifest(Path(downloads)), patience)
"""


@pytest.fixture
def launch(tmp_path, downloads):
    """Acquires items in processes of their own."""
    running: list[subprocess.Popen[str]] = []

    def start(wanted: Item) -> subprocess.Popen[str]:
        catalogue = tmp_path / f"{wanted.name}.yaml"
        catalogue.write_text(yaml.safe_dump({wanted.name: wanted.model_dump(mode="json", exclude={"name"})}))
        command = [sys.executable, "-c", PROGRAM, str(catalogue), wanted.name, str(downloads)]
        running.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_a_download_that_is_killed_is_continued(launch, get, kit, host, downloads, new_answer, gate, until):
    wanted, part = kit(), downloads / "kit.tar.part"
    host.plan("kit.tar", new_answer(cut=131_072, gate=gate))
    process = launch(wanted)
    until(lambda: part.is_file() and part.stat().st_size == 131_072)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(WAIT) == -signal.SIGKILL
    assert not wanted.manifest(downloads).exists()
    (record,) = get(wanted)["files"]
    assert host.ranges == [None, "bytes=131072-"]
    assert record["downloaded_bytes"] == wanted.bytes - 131_072
    assert _below(downloads) == FILES


@pytest.fixture
def two_at_once(launch, kit, host, new_answer, gate, until):
    """An item, a process that is in the middle of its download, and one that waits for it."""
    wanted = kit()
    host.plan("kit.tar", new_answer(cut=131_072, gate=gate))
    first = launch(wanted)
    until(lambda: host.requests)
    second = launch(wanted)
    assert second.stderr.readline() == WAITING
    return wanted, first, second


def test_two_processes_at_once_download_an_item_once(two_at_once, host, downloads, gate):
    wanted, first, second = two_at_once
    gate.set()
    assert [process.wait(WAIT) for process in (first, second)] == [0, 0]
    assert host.sent == wanted.bytes
    assert _below(downloads) == FILES


def test_a_process_that_waits_takes_over_when_the_other_is_killed(two_at_once, host, downloads):
    _, first, second = two_at_once
    first.kill()
    assert second.wait(WAIT) == 0
    assert len(host.requests) == 2
    assert _below(downloads) == FILES


def test_two_items_may_come_into_one_directory_at_once(launch, make_archive, make_item, downloads):
    halves = [{name: IMAGES[name] for name in list(IMAGES)[half::2]} for half in range(2)]
    wanted = [
        make_item(
            make_archive(_tar(files), f"half{number}.tar", kind="tar", directory="."),
            **{"name": f"half{number}", "expected": {"kit/images/*.jpg": 2}},
        )
        for number, files in enumerate(halves)
    ]
    processes = [launch(found) for found in wanted]
    assert [process.wait(WAIT) for process in processes] == [0, 0]
    assert _below(downloads) == IMAGES
    assert all(found.manifest(downloads).is_file() for found in wanted)
