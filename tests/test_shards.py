from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from t2ipal.errors import UserError
from t2ipal.shards import check, samples


def test_samples_come_in_order_with_image_caption_and_labels(run):
    path = run.write_shard(run.sample("a-000", "a cat\n", ["cat"]), run.sample("b-000", "a dög", ["dog", "person"]))
    first, second = samples(path)
    assert (first.key, first.caption, first.labels) == ("a-000", "a cat", ("cat",))
    assert (second.caption, second.labels) == ("a dög", ("dog", "person"))
    assert first.image().size == (16, 16)


def test_failed_images_are_left_out(run):
    path = run.write_shard(run.sample("a", "x", ["cat"], failed=True), run.sample("b", "y", ["cat"], failed=False))
    assert [sample.key for sample in samples(path)] == ["b"]


@pytest.mark.parametrize("name", ["../evil.png", "/etc/evil.png", "sub/evil.png", "..\\evil.png", ".hidden.png"])
def test_members_outside_the_top_level_are_refused(run, name):
    path = run.write_shard([(name, b"")])
    with pytest.raises(UserError, match="not a plain file at the top level"):
        list(samples(path))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_members_that_are_no_files_are_refused(tmp_path, kind):
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(UserError, match="not a plain file"):
        list(samples(path))


def test_a_member_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("t2ipal.shards.LARGEST_MEMBER", 10)
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        info = tarfile.TarInfo("a.txt")
        info.size = 11
        archive.addfile(info, io.BytesIO(b"x" * 11))
    with pytest.raises(UserError, match="larger than"):
        list(samples(tmp_path / "shard.tar"))


@pytest.mark.parametrize("labels", [None, "cat", [1], {"cat": 1}])
def test_labels_must_be_a_list_of_names(run, labels):
    path = run.write_shard(run.sample("a", "x", labels))
    with pytest.raises(UserError, match="no list of labels"):
        list(samples(path))


@pytest.mark.parametrize("left", [(0, 1), (0, 2), (1, 2)])
def test_an_incomplete_sample_is_refused(run, left):
    members = run.sample("a", "x", ["cat"])
    path = run.write_shard([members[index] for index in left])
    with pytest.raises(UserError, match="sample 'a'"):
        list(samples(path))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.6])
def test_a_cut_shard_is_named(run, share):
    path = run.write_shard(run.sample("a", "x" * 3000, ["cat"]))
    path.write_bytes(path.read_bytes()[: int(4096 * share)])
    with pytest.raises(UserError) as caught:
        list(samples(path))
    assert str(path) in str(caught.value)


def test_an_image_of_another_format_is_refused(run):
    members = run.sample("a", "x", ["cat"])
    path = run.write_shard([("a.png", b"GIF89a" + bytes(40)), *members[1:]])
    (sample,) = samples(path)
    with pytest.raises(UserError, match="synthetic image a "):
        sample.image()


def test_a_shard_is_held_against_its_manifest(tmp_path: Path) -> None:
    shard = tmp_path / "shard-00000.tar"
    shard.write_bytes(b"content")
    check(shard)
    manifest = shard.with_suffix(".json")
    manifest.write_text(json.dumps({"sha256": hashlib.sha256(b"content").hexdigest()}))
    check(shard)
    shard.write_bytes(b"cOntent")
    with pytest.raises(UserError, match=r"shard-00000\.tar is damaged: its sha256 .*shard-00000\.json; delete it"):
        check(shard)
    manifest.write_text("[]")
    with pytest.raises(UserError, match=r"manifest .*shard-00000\.json is damaged"):
        check(shard)
