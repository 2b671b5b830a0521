from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from t2ipal.captions.formats import Input, layout
from t2ipal.captions.streams import opened
from t2ipal.settings import CorpusSettings

NARRATIVE = b'{"image_id": "1", "caption": "A dog"}\n{"image_id": "1", "caption": "A cat"}\n'
ANNOTATIONS = b'{"info": {},\n "annotations": [{"caption": "A dog"}]}'


def _layout(path: Path, content: bytes, **settings: Any) -> str:
    path.write_bytes(content)
    with opened(path) as (raw, stream):
        found = layout(Input(path, raw, stream, CorpusSettings.model_validate(settings)))
        assert raw.tell() == 0
        return found


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", NARRATIVE, "text"),
        ("a.CSV", NARRATIVE, "csv"),
        ("a.b.tsv.gz", b"A dog", "csv"),
        ("a.jsonl.zst", b"", "localized-narratives"),
        ("a.parquet", b"", "parquet"),
        ("a.json", ANNOTATIONS, "coco"),
        ("a.json", ANNOTATIONS.replace(b"\n", b""), "coco"),
        ("a.json", NARRATIVE, "localized-narratives"),
        ("a.json", b"[1, 2]", "coco"),
        ("a", b"\xef\xbb\xbf \n" + ANNOTATIONS, "coco"),
        ("a", NARRATIVE, "localized-narratives"),
        ("a.data", b"PAR1...", "parquet"),
        ("a.data", b'number, "what is said"\n1,A dog\n', "csv"),
        ("a.data", b"what was said\nA dog\n", "text"),
        ("a.data", b"A dog", "text"),
        ("a.data", b"", "text"),
    ],
)
def test_the_layout_is_told_by_the_name_and_then_by_the_first_bytes(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    assert _layout(tmp_path / name, content, column="what is said") == expected
    assert _layout(tmp_path / name, content, column="what is said", format="text") == "text"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_the_first_bytes_are_read_in_the_encoding_that_is_told(tmp_path: Path, encoding: str) -> None:
    for content, expected in ((NARRATIVE, "localized-narratives"), (ANNOTATIONS, "coco"), (b"a,b\n", "csv")):
        encoded = content.decode().encode(encoding)
        assert _layout(tmp_path / "a.data", encoded, encoding=encoding, column="b") == expected


def test_narratives_with_long_traces_are_told_from_an_array(tmp_path: Path) -> None:
    trace = [{"x": 0.123, "y": 0.456, "t": number / 7} for number in range(5000)]
    entry = json.dumps({"traces": [trace], "caption": "A dog", "image_id": "1"}).encode()
    assert _layout(tmp_path / "a.json", entry + b"\n" + entry) == "localized-narratives"
