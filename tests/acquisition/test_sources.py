"""A file is had from where a user has put it, else from mirrors, else from its official addresses; and is checked."""

from __future__ import annotations

import hashlib

import pytest

from t2ipal.acquisition.sources import Obtained, obtain
from t2ipal.errors import UserError


@pytest.fixture
def downloads(tmp_path):
    found = tmp_path / "data"
    found.mkdir()
    return found


@pytest.fixture
def get(downloads, patience):
    """Obtains an archive, by these mirrors."""

    def obtained(archive, *mirrors: str) -> Obtained:
        return obtain(archive, downloads, mirrors, "benchmark.path", patience)

    return obtained


def _spoilt(content: bytes) -> bytes:
    return content[:1000] + bytes([content[1000] ^ 1]) + content[1001:]


def test_a_file_is_downloaded_from_its_own_address_into_a_part(get, make_archive, content, downloads, host):
    found = get(make_archive(content))
    assert found.path == downloads / "a.bin.part"
    assert found.path.read_bytes() == content
    assert found.ours
    assert found.address == host.url("a.bin")
    assert found.bytes == len(content)
    assert found.seconds > 0


@pytest.mark.parametrize("ending", ["", "/"])
def test_a_mirror_is_asked_before_the_official_address(get, make_archive, content, host, ending):
    archive = make_archive(content)
    host.files["mirror/deep/a.bin"] = content
    assert get(archive, host.url("mirror/deep") + ending).address == host.url("mirror/deep/a.bin")
    assert [request.path for request in host.requests] == ["mirror/deep/a.bin"]


@pytest.mark.parametrize("form", ["{path}", "file://{quoted}", "~/with space", "with space"])
def test_a_mirror_on_this_machine_is_used_in_place(
    get, make_archive, content, host, tmp_path, monkeypatch, form, downloads
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    mirror = tmp_path / "with space"
    mirror.mkdir()
    (mirror / "a.bin").write_bytes(content)
    found = get(make_archive(content), form.format(path=mirror, quoted=str(mirror).replace(" ", "%20")))
    assert found.path.resolve() == mirror / "a.bin"
    assert not found.ours
    assert found.bytes == 0
    assert host.requests == []
    assert list(downloads.iterdir()) == []


@pytest.mark.parametrize("status", [404, 403, 500, 503])
def test_a_mirror_that_refuses_is_left_for_the_next_address(
    get, make_archive, content, host, new_answer, status, capsys
):
    host.plan("mirror/a.bin", *[new_answer(status=status) for _ in range(9)])
    assert get(make_archive(content), host.url("mirror")).address == host.url("a.bin")
    said = capsys.readouterr().err
    assert f"a.bin: 127.0.0.1:{host.server.server_port}: {status}" in said


def test_a_mirror_that_leads_elsewhere_is_followed(get, make_archive, content, host, new_answer, downloads):
    archive = make_archive(content)
    host.plan("mirror/a.bin", new_answer(status=302, headers={"Location": host.url("a.bin")}))
    get(archive, host.url("mirror"))
    assert (downloads / "a.bin.part").read_bytes() == content


def test_mirrors_that_have_nothing_or_another_file_are_left_for_the_next(get, make_archive, content, tmp_path, capsys):
    empty, short, spoilt, right = (tmp_path / name for name in ("empty", "short", "spoilt", "right"))
    for folder in (empty, short, spoilt, right):
        folder.mkdir()
    (short / "a.bin").write_bytes(content[:-1])
    (spoilt / "a.bin").write_bytes(_spoilt(content))
    (right / "a.bin").write_bytes(content)
    found = get(make_archive(content), str(empty), str(short), spoilt.as_uri(), str(right))
    assert found.path == right / "a.bin"
    said = capsys.readouterr().err
    assert f"{empty}/a.bin: no such file" in said
    assert f"{short}/a.bin: has {len(content) - 1} bytes instead of {len(content)}" in said
    assert f"{spoilt}/a.bin: has sha256 {hashlib.sha256(_spoilt(content)).hexdigest()} instead of" in said
    assert (spoilt / "a.bin").read_bytes() == _spoilt(content)


def test_what_one_address_broke_off_is_continued_by_the_next(get, make_archive, content, host, new_answer, downloads):
    archive = make_archive(content, "mirror/a.bin", "a.bin")
    host.plan("mirror/a.bin", new_answer(cut=131_072), *[new_answer(status=500) for _ in range(9)])
    found = get(archive)
    assert found.path.read_bytes() == content
    assert found.address == host.url("a.bin")
    assert host.requests[-1].range == "bytes=131072-"
    assert found.bytes == len(content) - 131_072


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_wrong_byte_is_noticed_and_the_next_address_asked(get, make_archive, content, host, new_answer, algorithm):
    checksum = f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"
    archive = make_archive(content, "mirror/a.bin", "a.bin", checksum=checksum)
    host.plan("mirror/a.bin", new_answer(body=_spoilt(content)))
    found = get(archive)
    assert found.address == host.url("a.bin")
    assert found.path.read_bytes() == content
    assert host.ranges == [None, None]


def test_a_wrong_byte_of_an_earlier_answer_is_no_fault_of_the_later_address(
    get, make_archive, content, host, new_answer
):
    archive = make_archive(content, "mirror/a.bin", "a.bin")
    host.plan(
        "mirror/a.bin", new_answer(body=_spoilt(content), cut=131_072), *[new_answer(status=500) for _ in range(9)]
    )
    assert get(archive).path.read_bytes() == content
    assert host.ranges[-2:] == ["bytes=131072-", None]


def test_a_wrong_byte_everywhere_ends_with_a_sentence_and_leaves_nothing(
    get, make_archive, content, host, new_answer, downloads
):
    archive = make_archive(content)
    host.plan("a.bin", *[new_answer(body=_spoilt(content)) for _ in range(9)])
    with pytest.raises(UserError) as caught:
        get(archive)
    sentence = str(caught.value)
    assert "cannot download a.bin from its address (127.0.0.1" in sentence
    assert f"instead of {hashlib.sha256(content).hexdigest()}" in sentence
    for mend in (str(downloads), "benchmark.mirrors", "benchmark.path"):
        assert mend in sentence
    assert list(downloads.iterdir()) == []
    assert len(host.requests) == 1


def test_of_many_addresses_that_fail_the_last_is_named(get, make_archive, content, host, new_answer):
    archive = make_archive(content, "one/a.bin", "two/a.bin")
    host.plan("one/a.bin", new_answer(status=410))
    host.plan("two/a.bin", new_answer(status=404))
    with pytest.raises(UserError, match=r"from any of 3 addresses \(last: 127\.0\.0\.1:\d+: 404 Not Found\)"):
        get(archive, "/nowhere")


def test_a_password_in_an_address_is_not_said(get, make_archive, content, host, new_answer, capsys, downloads):
    archive = make_archive(content)
    host.files["m/a.bin"] = content
    secret = host.url("m").replace("http://", "http://user:secret@")
    assert "secret" not in get(archive, secret).address
    host.plan("m/a.bin", new_answer(status=404))
    host.plan("a.bin", new_answer(status=404))
    (downloads / "a.bin.part").unlink()
    with pytest.raises(UserError) as caught:
        get(archive, secret)
    assert "secret" not in str(caught.value)
    assert "secret" not in capsys.readouterr().err


@pytest.mark.parametrize("place", ["a.bin", "files/a.bin"])
def test_a_file_that_a_user_has_put_there_is_used_and_not_ours(
    get, make_archive, content, host, downloads, place, tmp_path
):
    (downloads / "files").mkdir()
    (downloads / place).write_bytes(content)
    found = get(make_archive(content), str(tmp_path))
    assert found.path == downloads / place
    assert not found.ours
    assert host.requests == []


def test_an_archive_is_not_looked_for_where_it_is_unpacked(get, make_archive, content, host, downloads):
    (downloads / "files").mkdir()
    (downloads / "files" / "a.bin").write_bytes(content)
    get(make_archive(content, kind="tar"))
    assert len(host.requests) == 1


@pytest.mark.parametrize(("change", "complaint"), [(lambda c: c[:-1], "has 299999 bytes"), (_spoilt, "has sha256")])
def test_another_file_that_a_user_has_put_there_is_refused_and_kept(
    get, make_archive, content, host, downloads, change, complaint
):
    mine = downloads / "a.bin"
    mine.write_bytes(change(content))
    with pytest.raises(UserError, match=rf"{mine} is not the published file: it {complaint} .*delete it or put"):
        get(make_archive(content))
    assert mine.read_bytes() == change(content)
    assert host.requests == []


def test_a_directory_in_place_of_a_mirror_s_file_is_no_file(get, make_archive, content, host, tmp_path):
    (tmp_path / "mirror" / "a.bin").mkdir(parents=True)
    assert get(make_archive(content), str(tmp_path / "mirror")).address == host.url("a.bin")
