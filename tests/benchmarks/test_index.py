from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from t2ipal.benchmarks import index
from t2ipal.config import parse
from t2ipal.errors import UserError
from t2ipal.layout import Layout

NAMES = ["fox", "badger", "hedgehog"]
SAID = {"c.png": ["hedgehog"], "a.png": ["fox", "badger"], "b.png": []}

Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """The settings of the index of a folder with these photographs, and of what was said of them."""

    def asked(said: dict[str, list[str]] | None = SAID, photos: tuple[str, ...] = tuple(SAID), **more: Any) -> Any:
        (tmp_path / "photos").mkdir(exist_ok=True)
        for photo in photos:
            Image.new("RGB", (8, 8)).save(tmp_path / "photos" / photo)
        (tmp_path / "labels.yaml").write_text(f"classes: {NAMES}")
        benchmark = {"name": "own", "labels": str(tmp_path / "labels.yaml"), "path": str(tmp_path / "photos"), **more}
        if said is not None:
            (tmp_path / "said.json").write_text(json.dumps(said))
            benchmark["annotations"] = str(tmp_path / "said.json")
        found = Layout(parse({"benchmark": benchmark})).index("test")
        assert found is not None
        return found.settings

    return asked


def test_rows_are_the_records_with_protocol_root_and_classes(tmp_path: Path, ask: Ask) -> None:
    index.build(ask(), tmp_path / "index.parquet")
    found = index.read(tmp_path / "index.parquet")
    assert [(record.key, record.labels, record.unknown) for record in found.records] == [
        ("c.png", ("hedgehog",), ()),
        ("a.png", ("fox", "badger"), ()),
        ("b.png", (), ()),
    ]
    assert (found.protocol, found.images, found.label_names) == ("own/test-3", 3, NAMES)
    assert found.root == tmp_path / "photos"
    assert not (tmp_path / index.MISSING_FILE).exists()


def test_images_nobody_spoke_of_are_unknown_in_every_class(tmp_path: Path, ask: Ask) -> None:
    index.build(ask(said=None), tmp_path / "index.parquet")
    assert [record.unknown for record in index.read(tmp_path / "index.parquet").records] == [tuple(NAMES)] * 3


def test_a_slice_keeps_the_number_of_the_whole(tmp_path: Path, ask: Ask) -> None:
    index.build(ask(), tmp_path / "index.parquet")
    found = index.read(tmp_path / "index.parquet", 2, 5)
    assert [record.key for record in found.records] == ["b.png"] and found.images == 3


def test_missing_images_are_refused_with_the_share_to_tolerate(tmp_path: Path, ask: Ask) -> None:
    settings = ask(photos=("a.png",))
    with pytest.raises(UserError, match=r"2 of 3 images .*c\.png, b\.png; .*benchmark\.missing to at least 0\.6667"):
        index.build(settings, tmp_path / "index.parquet", 0.5)
    assert not (tmp_path / "index.parquet").exists()


def test_tolerated_images_stay_in_the_index_and_are_named_beside_it(
    tmp_path: Path, ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    index.build(ask(photos=("a.png",)), tmp_path / "index.parquet", 0.7)
    assert len(index.read(tmp_path / "index.parquet").records) == 3
    assert (tmp_path / index.MISSING_FILE).read_text() == "c.png\nb.png\n"
    assert "2 of 3 images are missing" in capsys.readouterr().err


def test_another_number_of_images_than_announced_is_refused(tmp_path: Path, ask: Ask) -> None:
    with pytest.raises(UserError, match=r"lists 3 images instead of 20; .*benchmark\.test_images: 3"):
        index.build(ask(test_images=20), tmp_path / "index.parquet")


def test_a_rendered_benchmark_has_no_index(tmp_path: Path) -> None:
    assert Layout(parse({})).index("test") is None
    with pytest.raises(UserError, match="no image files to list"):
        index.build({"split": "test", "benchmark": {"name": "openmoji"}}, tmp_path / "index.parquet")


@pytest.mark.parametrize("content", [b"", b"not parquet", None])
def test_what_is_no_index_is_refused_with_the_mend(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "index.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read index .*delete it and run again"):
        index.read(path)


def test_a_foreign_parquet_file_is_no_index(tmp_path: Path, ask: Ask) -> None:
    index.build(ask(), tmp_path / "index.parquet")
    pq.write_table(pq.read_table(tmp_path / "index.parquet").replace_schema_metadata({}), tmp_path / "foreign.parquet")
    with pytest.raises(UserError, match="cannot read index"):
        index.read(tmp_path / "foreign.parquet")


@pytest.mark.parametrize(("names", "text"), [("", ""), ("a", "a"), ("abc", "a, b, c"), ("abcde", "a, b, c and 2 more")])
def test_long_lists_are_cut(names: str, text: str) -> None:
    assert index.listed(list(names)) == text
