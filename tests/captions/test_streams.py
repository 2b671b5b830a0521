from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from t2ipal.captions import streams
from t2ipal.captions.streams import as_text, elements, lines, opened
from t2ipal.errors import UserError

DATA = "".join(f"line {number} 'ä'\n" for number in range(5000)).encode()
PACKED = {"plain": DATA, "gz": gzip.compress(DATA), "zst": zstandard.compress(DATA)}


@pytest.mark.parametrize("kind", PACKED)
def test_a_file_is_unpacked_by_its_first_bytes_whatever_its_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "no-suffix"
    path.write_bytes(PACKED[kind])
    with opened(path) as (raw, stream):
        assert stream.read() == DATA
        assert raw.tell() == len(PACKED[kind])


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_packed_pieces_one_after_the_other_are_all_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "two"
    path.write_bytes(PACKED[kind] * 2)
    with opened(path) as (_, stream), as_text(stream, "utf-8") as text:
        assert "".join(lines(text)).encode() == DATA * 2


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_file_that_is_cut_off_is_an_error_at_its_end(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "cut"
    path.write_bytes(PACKED[kind][:-20])
    with opened(path) as (_, stream), as_text(stream, "utf-8") as text, pytest.raises(OSError, match="Truncated"):
        list(lines(text))


def test_an_empty_file_has_no_line(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    with opened(path) as (_, stream), as_text(stream, "utf-8") as text:
        assert list(lines(text)) == []


@pytest.mark.parametrize("encoding", ["utf-8", "UTF_8", "utf-16", "latin-1", "utf-8-sig"])
def test_text_is_decoded_without_its_byte_order_mark(encoding: str) -> None:
    mark = b"\xef\xbb\xbf" if encoding == "UTF_8" else b""
    assert as_text(io.BytesIO(mark + "ä\r\nb".encode(encoding)), encoding).read() == "ä\nb"


def test_bytes_that_do_not_fit_are_marked() -> None:
    assert list(lines(as_text(io.BytesIO("a\nä\nb".encode("latin-1")), "utf-8"))) == ["a\n", "\ufffd\n", "b"]


@pytest.mark.parametrize("encoding", ["utf-9", "base64"])
def test_an_encoding_that_is_none_is_refused(encoding: str) -> None:
    with pytest.raises(UserError, match=rf"captions\.corpus\.encoding.*'{encoding}'"):
        as_text(io.BytesIO(), encoding)


def test_a_line_without_end_comes_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LONGEST", 10)
    assert list(lines(io.StringIO("x" * 25 + "\nshort\n"))) == ["x" * 10, "x" * 10, "x" * 5 + "\n", "short\n"]


DOCUMENT = {
    "info": {"year": 2014, "items": [1, 2], "text": 'a "quoted" ] } \\ '},
    "count": 17,
    "images": [{"id": number, "file": f"{number}.jpg"} for number in range(50)],
    "none": None,
    "empty": [],
    "items": [{"id": 1, "caption": "Ünïcödé ✓ \u2028 𝄞"}, [], {}, 12345, "text", None, True, -1.5e-3, [[1], [2]]],
    "last": [1, 2, 3],
}


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_elements_are_those_of_the_document_however_it_is_cut(
    monkeypatch: pytest.MonkeyPatch, block: int, indent: int | None
) -> None:
    monkeypatch.setattr(streams, "BLOCK", block)
    for ascii_only in (True, False):
        text = json.dumps(DOCUMENT, indent=indent, ensure_ascii=ascii_only)
        for key, value in DOCUMENT.items():
            expected = value if isinstance(value, list) else []
            assert list(elements(io.StringIO(f" \n{text}\n "), key)) == expected
        assert list(elements(io.StringIO(text), "absent")) == []


@pytest.mark.parametrize("text", ["{}", " { } ", '{"a": []}', '{"a": {}}'])
def test_documents_without_elements_have_none(text: str) -> None:
    assert list(elements(io.StringIO(text), "a")) == []


@pytest.mark.parametrize("block", [1, 1 << 20])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "found the end"),
        ("[1, 2]", "expected {, found \\["),
        ('{"a": [1, 2', "ends too early|found the end"),
        ('{"a": [1, 2]', "found the end"),
        ('{"a": [1 2]}', "expected , or \\], found 2"),
        ('{"a": [1, {"b": }]}', "Expecting value"),
        ('{"a" [1]}', "expected :"),
        ('{"a": [' + "[" * 100_000, "nested too deeply|found the end"),
    ],
)
def test_what_is_no_json_object_is_an_error(
    monkeypatch: pytest.MonkeyPatch, text: str, reason: str, block: int
) -> None:
    monkeypatch.setattr(streams, "BLOCK", max(block, len(text) // 100))
    with pytest.raises(ValueError, match=reason):
        list(elements(io.StringIO(text), "a"))


def test_a_value_without_end_is_given_up_before_all_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BLOCK", 100)
    monkeypatch.setattr(streams, "LONGEST", 1000)
    text = io.StringIO('{"a": [1, "' + "x" * 100_000)
    found: list[Any] = []
    with pytest.raises(ValueError, match="Unterminated string"):
        found.extend(elements(text, "a"))
    assert text.tell() < 3000
