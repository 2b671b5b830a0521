from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from t2ipal import benchmarks
from t2ipal.benchmarks.base import FileBenchmark, Record
from t2ipal.benchmarks.voc2007 import Voc2007Benchmark, difficult_objects
from t2ipal.errors import UserError
from t2ipal.settings import BenchmarkSettings

BOMB = """<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<annotation><object><name>&b;</name><difficult>0</difficult></object></annotation>"""


def load(path: Path | None, **more: Any) -> FileBenchmark:
    found = benchmarks.load(BenchmarkSettings(name="voc2007", path=path and str(path), **more))
    assert isinstance(found, FileBenchmark)
    return found


def xml(*objects: tuple[str, int]) -> str:
    inner = "".join(f"<object><name>{n}</name><difficult>{d}</difficult></object>" for n, d in objects)
    return f"<annotation><owner><name>a flickr user</name></owner>{inner}</annotation>"


Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a VOC2007 with these annotations by image, all of one split."""

    def made(annotations: Mapping[str, str | bytes], split: str = "test", listed: str | None = None) -> Path:
        root = tmp_path / "VOC2007"
        for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (root / part).mkdir(parents=True)
        for key, content in annotations.items():
            (root / f"Annotations/{key}.xml").write_bytes(content if isinstance(content, bytes) else content.encode())
        lines = "".join(f"{key}\n" for key in annotations) if listed is None else listed
        (root / f"ImageSets/Main/{split}.txt").write_text(lines, newline="")
        return tmp_path

    return made


def positives(path: Path) -> tuple[set[str], set[str]]:
    """The classes with an object that is not difficult, and those with difficult ones only; by plain text search."""
    clear, all_of_them = set(), set()
    for body in re.findall(r"<object>(.*?)</object>", path.read_text(), re.DOTALL):
        name = re.search(r"<name>(\w+)</name>", body)
        assert name
        all_of_them.add(name[1])
        if "<difficult>0</difficult>" in body:
            clear.add(name[1])
    return clear, all_of_them - clear


@pytest.mark.parametrize("difficult", ["negative", "ignored"])
def test_positives_of_real_photographs_are_those_of_the_xml(vocdevkit: Path, difficult: str) -> None:
    records = load(vocdevkit, difficult=difficult).records("test")
    read = {path.stem: positives(path) for path in (vocdevkit / "VOC2007/Annotations").glob("*.xml")}
    assert len(records) == len(read) == 200
    assert Counter(name for r in records for name in r.labels) == Counter(
        n for clear, _ in read.values() for n in clear
    )
    for record in records:
        clear, doubtful = read[record.key]
        assert set(record.labels) == clear
        assert set(record.unknown) == (doubtful if difficult == "ignored" else set())
    assert any(doubtful for _, doubtful in read.values())


def test_labels_agree_with_the_official_lists_of_each_class(vocdevkit: Path) -> None:
    benchmark = load(vocdevkit, difficult="ignored")
    signs = {"1": "labels", "0": "unknown"}
    official: dict[str, dict[str, set[str]]] = {}
    for name in benchmark.names():
        lines = (benchmark.root / f"ImageSets/Main/{name}_test.txt").read_text().split("\n")
        for key, value in (line.split() for line in lines if line):
            said = official.setdefault(key, {"labels": set(), "unknown": set()})
            if value in signs:
                said[signs[value]].add(name)
    assert {r.key: {"labels": set(r.labels), "unknown": set(r.unknown)} for r in benchmark.records("test")} == official


def test_real_photographs_are_found_in_the_order_of_the_list(vocdevkit: Path) -> None:
    benchmark = load(vocdevkit, test_images=200)
    split = benchmark.split("test")
    assert split.keys == (vocdevkit / "VOC2007/ImageSets/Main/test.txt").read_text().split()
    assert split.protocol == "voc2007/test-200/difficult-negative"
    assert split.image(0).mode == "RGB"
    assert all((benchmark.root / record.file).is_file() for record in benchmark.records("test"))


def test_any_of_three_directories_may_be_given(make: Make, tmp_path: Path) -> None:
    kit = make({"000001": xml(("dog", 0))})
    assert load(kit).root == load(kit / "VOC2007").root == kit / "VOC2007"
    (tmp_path / "above").mkdir()
    (tmp_path / "above/VOCdevkit").symlink_to(kit)
    assert load(tmp_path / "above").records("test") == [Record("000001", "JPEGImages/000001.jpg", ("dog",))]


def test_downloads_lie_where_the_archives_unpack_them() -> None:
    assert load(None, downloads="there").root == Path("there/VOCdevkit/VOC2007")
    assert load(None).sources("train") == [Path("data/VOCdevkit/VOC2007/ImageSets/Main/trainval.txt")]


def test_official_sizes_and_protocols_need_no_data() -> None:
    benchmark = load(None, difficult="ignored")
    assert (benchmark.count("train"), benchmark.count("test")) == (5011, 4952)
    assert benchmark.protocol("test") == "voc2007/test-4952/difficult-ignored"
    assert load(None, train_images=50).count("train") == 50
    assert benchmark.check_labels().names == benchmark.names()


@pytest.mark.parametrize("ask", ["count", "records", "sources"])
def test_there_is_no_validation_split(ask: str) -> None:
    with pytest.raises(UserError, match="benchmark 'voc2007' has no images for 'val'"):
        getattr(load(None, val_images=20), ask)("val")


def test_a_class_is_doubtful_only_if_all_its_objects_are_difficult(make: Make) -> None:
    kit = make({"000001": xml(("dog", 1), ("dog", 0), ("cat", 1), ("cat", 1)), "000002": xml()}, "trainval")
    assert load(kit).records("train") == [
        Record("000001", "JPEGImages/000001.jpg", ("dog",)),
        Record("000002", "JPEGImages/000002.jpg", ()),
    ]
    assert load(kit, difficult="ignored").records("train")[0].unknown == ("cat",)


def test_parts_of_objects_and_names_of_owners_are_no_objects(tmp_path: Path) -> None:
    part = "<part><name>head</name></part>"
    (tmp_path / "a.xml").write_text(
        f"<annotation><name>cat</name><object>{part}<name> person </name></object></annotation>"
    )
    assert difficult_objects(tmp_path / "a.xml") == {"person": False}


def test_windows_line_ends_and_byte_order_marks_do_not_matter(make: Make) -> None:
    listed = "\ufeff000002\r\n000001  1\r\n\r\n"
    kit = make(
        {"000001": xml(("dog", 0)).replace("><", ">\r\n<"), "000002": b"\xef\xbb\xbf" + xml().encode()}, listed=listed
    )
    assert [(r.key, r.labels) for r in load(kit).records("test")] == [("000002", ()), ("000001", ("dog",))]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (xml(("unicycle", 0)), r"000001.xml has an object of class 'unicycle', which VOC 2007 does not have"),
        (xml(("dog", 0))[:-13], r"000001.xml is damaged: it is no XML \(no element found"),
        ("", "000001.xml is damaged: it is no XML"),
        (BOMB, "000001.xml declares a document type or entity"),
        (BOMB.encode("utf-16"), "000001.xml is not UTF-8 text"),
        (xml(("dog", 0)).replace("flickr", "Zoë").encode("latin-1"), r"000001.xml is not UTF-8 text \(line 1\)"),
        (xml(("dog", 2)), "000001.xml has an object without a proper name or difficult"),
        (xml(("", 0)), "000001.xml has an object without a proper name or difficult"),
        ("<html></html>", "000001.xml has <html> in place of <annotation>"),
    ],
)
def test_a_flawed_annotation_is_refused(make: Make, content: str | bytes, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        load(make({"000001": content})).records("test")


@pytest.mark.parametrize(
    ("listed", "complaint"),
    [
        ("000007\n", r"cannot read annotation file .*000007.xml \(No such file"),
        ("000001\n000001\n", "test.txt lists image '000001' twice"),
        ("../000001\n", "lists '../000001', which names no image"),
        ("\n", "test.txt is empty"),
    ],
)
def test_a_flawed_list_is_refused(make: Make, listed: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        load(make({"000001": xml()}, listed=listed)).records("test")


def test_a_missing_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read annotation file .*ImageSets/Main/test.txt"):
        load(tmp_path).records("test")


def test_a_label_set_with_other_classes_is_refused(tmp_path: Path) -> None:
    names = list(Voc2007Benchmark(BenchmarkSettings(name="voc2007")).names())
    (tmp_path / "own.yaml").write_text(f"classes: {[*names[1:], 'unicycle']}")
    with pytest.raises(UserError, match="lacks class 'aeroplane', unlike benchmark 'voc2007'"):
        load(None, labels=str(tmp_path / "own.yaml")).check_labels()
    (tmp_path / "own.yaml").write_text(f"classes: {names[::-1]}")
    assert load(None, labels=str(tmp_path / "own.yaml")).check_labels().names[0] == "tvmonitor"
