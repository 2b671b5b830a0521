"""A file from one address: resumed, never of the wrong size, never from a server that refuses it."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from t2ipal.acquisition.download import Download, Part, Patience, RefusedError


@pytest.fixture
def part(tmp_path):
    return Part(tmp_path / "a.bin.part")


@pytest.fixture
def start(make_archive, content, part, patience):
    """Makes the download of the content from the host."""

    def make(url: str | None = None, **changes) -> Download:
        archive = make_archive(content, **changes)
        return Download(url or archive.urls[0], archive, part, patience)

    return make


def test_a_file_is_downloaded_in_one_go(host, start, part, content):
    download = start()
    assert download.run() is False
    assert part.path.read_bytes() == content
    assert download.received == len(content)
    assert host.ranges == [None]
    assert host.requests[0].encoding == "identity"


def test_a_file_that_is_broken_off_is_continued_with_what_is_missing(host, start, part, content, new_answer):
    host.plan("a.bin", new_answer(cut=100_000), new_answer(cut=50_000))
    assert start().run() is True
    assert part.path.read_bytes() == content
    assert host.ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert host.sent == len(content)


def test_the_server_is_asked_for_the_same_version_by_its_etag(host, start, content, new_answer):
    host.plan("a.bin", new_answer(cut=100_000))
    start().run()
    assert host.requests[1].condition == f'"{hashlib.md5(content).hexdigest()}"'


def test_the_server_is_asked_for_the_same_version_by_its_date(host, start, new_answer):
    date = "Tue, 06 Nov 2007 00:00:00 GMT"
    host.plan("a.bin", new_answer(cut=100_000, etag='W/"weak"', headers={"Last-Modified": date}))
    start().run()
    assert host.requests[1].condition == date


def test_a_file_that_changed_on_the_server_is_begun_anew(host, start, part, content, new_answer):
    old = bytes(len(content))
    host.plan("a.bin", new_answer(cut=100_000, body=old))
    assert start().run() is False
    assert part.path.read_bytes() == content
    assert host.requests[1].range == "bytes=100000-"


def test_a_server_without_ranges_sends_all_again(host, start, part, content, new_answer):
    host.plan("a.bin", new_answer(cut=100_000), new_answer(ranges=False))
    assert start().run() is False
    assert part.path.read_bytes() == content
    assert host.sent == 100_000 + len(content)


def test_a_server_without_ranges_that_always_breaks_off_is_left(host, start, new_answer):
    host.plan("a.bin", *[new_answer(cut=100_000, ranges=False) for _ in range(9)])
    with pytest.raises(RefusedError, match="breaks off"):
        start().run()
    assert len(host.requests) == 3


def test_a_file_that_comes_in_many_pieces_is_worth_any_number_of_attempts(host, start, part, content, new_answer):
    host.plan("a.bin", *[new_answer(cut=20_000) for _ in range(14)])
    start().run()
    assert part.path.read_bytes() == content
    assert len(host.requests) == 15


def test_another_part_than_was_asked_for_is_not_taken(host, start, part, content, new_answer):
    host.plan("a.bin", new_answer(cut=100_000), new_answer(first=7))
    assert start().run() is False
    assert part.path.read_bytes() == content
    assert host.ranges == [None, "bytes=100000-", None]


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_what_a_server_may_get_over_is_tried_again(host, start, part, content, new_answer, status):
    host.plan("a.bin", new_answer(status=status), new_answer(status=status))
    start().run()
    assert part.path.read_bytes() == content
    assert len(host.requests) == 3


def test_a_server_that_fails_for_good_is_left_after_a_few_attempts(host, start, new_answer):
    host.plan("a.bin", *[new_answer(status=503) for _ in range(9)])
    with pytest.raises(RefusedError, match="503"):
        start().run()
    assert len(host.requests) == 3


@pytest.mark.parametrize("status", [404, 403, 401, 410])
def test_a_refusal_is_taken_at_once(host, start, new_answer, status):
    host.plan("a.bin", new_answer(status=status))
    with pytest.raises(RefusedError, match=str(status)):
        start().run()
    assert len(host.requests) == 1


def test_pauses_double_and_end_at_the_longest_one():
    patience = Patience(first_pause=1, longest_pause=10)
    assert [patience.pause(failures, 0) for failures in range(1, 6)] == [1, 2, 4, 8, 10]


def test_a_server_is_left_alone_for_as_long_as_it_asks(host, start, patience, new_answer, monkeypatch):
    slept: list[float] = []
    # In that module only: other threads of this process may sleep, too.
    monkeypatch.setattr("t2ipal.acquisition.download.time", SimpleNamespace(sleep=slept.append))
    download = start()
    download.patience = Patience(first_pause=0.01, longest_pause=9)
    host.plan("a.bin", new_answer(status=503, headers={"Retry-After": "7"}), new_answer(status=503))
    download.run()
    assert slept == [7, 0.02]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_with_the_range(host, start, part, content, new_answer, status):
    there = {"Location": host.url("a.bin")}
    host.plan("old", new_answer(status=status, headers=there), new_answer(status=status, headers=there))
    host.plan("a.bin", new_answer(cut=100_000))
    start(host.url("old")).run()
    assert part.path.read_bytes() == content
    assert [request.path for request in host.requests] == ["old", "a.bin", "old", "a.bin"]
    assert host.requests[3].range == "bytes=100000-"


def test_redirects_in_circles_are_left_at_once(host, start, new_answer):
    host.plan("here", *[new_answer(status=302, headers={"Location": host.url("there")}) for _ in range(99)])
    host.plan("there", *[new_answer(status=302, headers={"Location": host.url("here")}) for _ in range(99)])
    with pytest.raises(RefusedError, match="circles"):
        start(host.url("here")).run()
    assert len(host.requests) == 11


@pytest.mark.parametrize("change", [-1, 1, 1000])
def test_a_file_of_another_size_is_not_even_begun(host, start, part, content, new_answer, change):
    host.plan("a.bin", new_answer(body=(content + bytes(2000))[: len(content) + change]))
    with pytest.raises(RefusedError, match=f"offers {len(content) + change} bytes instead of {len(content)}"):
        start().run()
    assert not part.path.exists()


def test_more_bytes_than_there_are_to_be_are_not_written(host, start, part, content, new_answer):
    host.plan("a.bin", new_answer(body=content + bytes(500_000), length=False))
    with pytest.raises(RefusedError, match=f"more than {len(content)} bytes"):
        start().run()
    assert not part.path.exists()


def test_a_body_that_ends_too_early_without_a_named_length_is_noticed(host, start, part, content, new_answer):
    host.plan("a.bin", new_answer(cut=100_000, length=False))
    start().run()
    assert part.path.read_bytes() == content
    assert host.ranges == [None, "bytes=100000-"]


def test_a_page_in_place_of_the_file_is_not_taken_for_its_beginning(host, start, part, new_answer):
    page = new_answer(body=b"<html>Sign in</html>", length=False, headers={"Content-Type": "text/html; charset=utf-8"})
    host.plan("a.bin", page)
    with pytest.raises(RefusedError, match="web page"):
        start().run()
    assert not part.path.exists()


def test_a_server_that_stalls_is_asked_for_the_rest(host, start, part, content, patience, new_answer, gate):
    host.plan("a.bin", new_answer(cut=131_072, gate=gate))
    download = start()
    download.patience = replace(patience, answer=3)  # what comes at once comes in this time on a busy machine, too
    download.run()
    assert part.path.read_bytes() == content
    assert host.ranges == [None, "bytes=131072-"]


def test_a_server_that_never_answers_is_left(host, start, new_answer, patience, gate, until):
    host.plan("a.bin", *[new_answer(cut=0, gate=gate) for _ in range(9)])
    download = start()
    download.patience = replace(patience, answer=0.4)
    with pytest.raises(RefusedError, match=r"no answer for 0\.4 seconds"):
        download.run()
    until(lambda: len(host.requests) >= 3)  # the host may be behind
    assert len(host.requests) == 3


def test_no_server_at_all_is_one_short_reason(start):
    with pytest.raises(RefusedError, match=r"^Connection refused$"):
        start("http://127.0.0.1:9/a.bin").run()


def test_an_address_that_is_none_is_left_at_once(start):
    with pytest.raises(RefusedError):
        start("http://").run()


def test_what_the_server_packs_for_the_way_is_unpacked(host, start, part, content, new_answer):
    host.plan("a.bin", new_answer(packed=True))
    start().run()
    assert part.path.read_bytes() == content


def test_a_gz_file_that_is_named_packed_for_the_way_stays_as_it_is(host, make_archive, part, patience, new_answer):
    packed = gzip.compress(bytes(range(256)) * 500)
    archive = make_archive(packed, "a.tar.gz")
    host.plan("a.tar.gz", new_answer(headers={"Content-Encoding": "gzip"}))
    Download(archive.urls[0], archive, part, patience).run()
    assert part.path.read_bytes() == packed


def test_a_part_from_another_address_is_continued_where_a_checksum_will_tell(host, start, part, content):
    part.begin(host.url("elsewhere"), {"ETag": '"x"'})
    part.path.write_bytes(content[:70_000])
    assert start().run() is True
    assert host.ranges == ["bytes=70000-"]
    assert host.requests[0].condition is None


def test_a_part_from_another_address_is_begun_anew_where_nothing_tells(host, start, part, content):
    part.begin(host.url("elsewhere"), {"ETag": '"x"'})
    part.path.write_bytes(content[:70_000])
    assert start(checksum=None).run() is False
    assert host.ranges == [None]
    assert part.path.read_bytes() == content


def test_a_part_of_unknown_origin_is_begun_anew(host, start, part, content):
    part.path.write_bytes(content[:70_000])
    start().run()
    assert host.ranges == [None]
    assert part.path.read_bytes() == content


def test_a_part_that_is_whole_is_not_asked_for(host, start, part, content):
    download = start()
    part.begin(download.url, {})
    part.path.write_bytes(content)
    assert download.run() is True
    assert host.requests == []


def test_a_part_that_is_too_long_is_begun_anew(host, start, part, content):
    download = start()
    part.begin(download.url, {"ETag": '"x"'})
    part.path.write_bytes(content + b"more")
    assert download.run() is False
    assert part.path.read_bytes() == content


def test_a_whole_part_of_a_file_of_rounded_size_is_told_by_the_server(host, start, part, content):
    download = start(checksum=None, rounded=True, bytes=290_000)
    part.begin(download.url, {"ETag": f'"{hashlib.md5(content).hexdigest()}"'})
    part.path.write_bytes(content)
    assert download.run() is True
    assert part.path.read_bytes() == content
    assert host.ranges == ["bytes=300000-"]


def test_a_file_of_rounded_size_is_as_long_as_the_server_says(host, start, part, content, new_answer):
    host.plan("a.bin", new_answer(cut=295_000))
    start(checksum=None, rounded=True, bytes=290_000).run()
    assert part.path.read_bytes() == content
    assert host.ranges == [None, "bytes=295000-"]


def test_a_file_of_rounded_size_cannot_be_of_any_size(start):
    with pytest.raises(RefusedError, match="offers 300000 bytes instead of 200000"):
        start(checksum=None, rounded=True, bytes=200_000).run()


def test_what_came_of_a_file_is_kept_when_the_server_goes_away(host, start, part, content, new_answer):
    host.plan("a.bin", new_answer(cut=100_000), *[new_answer(status=500) for _ in range(9)])
    with pytest.raises(RefusedError):
        start().run()
    assert part.path.read_bytes() == content[:100_000]
    host.plan("a.bin")
    start().run()
    assert host.ranges[-1] == "bytes=100000-"


def test_a_full_disk_is_no_fault_of_the_address(start, part, tmpfs, patience):
    disk: Path = tmpfs(128)
    download = start()
    download.part = Part(disk / "a.bin.part")
    with pytest.raises(OSError, match="No space left"):
        download.run()
