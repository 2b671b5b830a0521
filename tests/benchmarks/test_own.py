from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from t2ipal import benchmarks
from t2ipal.benchmarks.base import FileBenchmark, Record
from t2ipal.errors import UserError
from t2ipal.settings import BenchmarkSettings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
NAMES = ("fox", "badger", "hedgehog")
PHOTOS = ("a.jpg", "b.JPG", "wood/c.png")
# What every format below says: of c nobody knows whether a hedgehog is in it.
SAID = [Record("wood/c.png", "wood/c.png", (), ("hedgehog",)), Record("a.jpg", "a.jpg", ("fox", "badger"))]

Own = Callable[..., FileBenchmark]


@pytest.fixture
def own(tmp_path: Path) -> Own:
    """The benchmark of a folder with these files, and of an annotation file of this name and content."""

    def made(name: str | None = None, content: Any = "", photos: Sequence[str] = PHOTOS, **more: Any) -> FileBenchmark:
        (tmp_path / "labels.yaml").write_text(f"classes: {list(NAMES)}")
        (tmp_path / "photos").mkdir()
        for photo in photos:
            (tmp_path / "photos" / photo).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "photos" / photo).write_bytes(b"")
        if isinstance(content, pa.Table):
            pq.write_table(content, tmp_path / str(name))
        elif name is not None:
            text = content if isinstance(content, str | bytes) else json.dumps(content)
            (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        annotations = None if name is None else str(tmp_path / name)
        values = {"name": "own", "labels": str(tmp_path / "labels.yaml"), "path": str(tmp_path / "photos")}
        found = benchmarks.load(BenchmarkSettings.model_validate({**values, "annotations": annotations, **more}))
        assert isinstance(found, FileBenchmark)
        return found

    return made


def coco_document(photos: Sequence[str] = ("wood/c.png", "a.jpg"), names: Sequence[str] = ("badger", "fox")) -> Any:
    return {
        "images": [{"id": 5 + i, "file_name": photo, "width": 1} for i, photo in enumerate(photos)],
        "annotations": [{"image_id": 6, "category_id": 2 + i, "segmentation": [[1, 2]]} for i in range(len(names))],
        "categories": [{"id": 2 + i, "name": name} for i, name in enumerate(names)] + [{"id": 0, "name": "animals"}],
    }


LISTS = [
    {"image": "wood/c.png", "labels": [], "unknown": ["hedgehog"]},
    {"image": "a.jpg", "labels": ["badger", "fox"], "unknown": None},
]
COLUMNS = [
    {"file": "wood/c.png", "fox": 0.0, "badger": False, "hedgehog": None},
    {"file": "a.jpg", "fox": 1.0, "badger": True, "hedgehog": 0},
]
FORMATS = [
    ("said.csv", "image,labels,unknown\nwood/c.png,,hedgehog\na.jpg,badger;fox,\n"),
    ("said.csv", '\ufeffID;File;Labels;Unknown\r\n7;wood\\c.png;;hedgehog\r\n8;a.jpg;"fox, badger";\r\n\r\n'),
    ("said.tsv", "path\tlabels\tunknown\nwood/c.png\t\t hedgehog\na.jpg\tfox | badger| fox\t\n"),
    ("said.csv", "image,hedgehog,badger,fox\nwood/c.png,-1,0,\na.jpg,0,1,1\n"),
    ("said.CSV", "fox,badger,hedgehog,file_name\n0.0,False,?,c.png\n1.0,True,,a.jpg\n"),
    ("said.json", LISTS),
    ("said.json", COLUMNS),
    ("said.jsonl", "\r\n\r\n".join(json.dumps(row) for row in LISTS)),
    ("said.ndjson", "\n".join(json.dumps(row) for row in COLUMNS)),
    ("said.parquet", pa.Table.from_pylist(LISTS)),
    ("said.parquet", pa.Table.from_pylist(COLUMNS)),
]


@pytest.mark.parametrize(("name", "content"), FORMATS)
def test_every_format_says_the_same(own: Own, name: str, content: Any) -> None:
    benchmark = own(name, content)
    assert benchmark.records("test") == SAID
    assert benchmark.count("test") == 2
    assert benchmark.protocol("test") == "own/test-2"
    assert [path.name for path in benchmark.sources("test")] == [name]


def test_names_of_files_with_lists_of_labels_will_do(own: Own) -> None:
    records = own("said.json", {"wood/c.png": [], "a.jpg": ["badger", "fox"], "b.JPG": None}).records("test")
    assert [(r.labels, r.unknown) for r in records] == [((), ()), (("fox", "badger"), ()), ((), NAMES)]


def test_a_class_that_is_no_category_of_coco_is_unknown(own: Own) -> None:
    assert own("said.json", coco_document()).records("test") == [
        Record("wood/c.png", "wood/c.png", (), ("hedgehog",)),
        Record("a.jpg", "a.jpg", ("fox", "badger"), ("hedgehog",)),
    ]


def test_without_annotations_every_label_of_every_image_is_unknown(own: Own) -> None:
    benchmark = own(photos=[*PHOTOS, ".hidden.jpg", ".git/d.jpg", "notes.txt", "wood/e.TIFF", "wood/f.webp"])
    files = ["a.jpg", "b.JPG", "wood/c.png", "wood/e.TIFF", "wood/f.webp"]
    assert benchmark.records("test") == [Record(file, file, (), NAMES) for file in files]
    assert benchmark.count("test") == 5
    assert benchmark.sources("test") == []


def test_real_photographs_can_be_told_by_the_json_of_coco(coco: Path) -> None:
    annotations = coco / "annotations/instances_val2017.json"
    values = {"name": "own", "labels": "coco", "path": str(coco / "val2017"), "annotations": str(annotations)}
    mine = benchmarks.load(BenchmarkSettings.model_validate(values))
    theirs = benchmarks.load(BenchmarkSettings(name="coco2017", labels="coco", path=str(coco), test_images=79))
    assert mine.count("test") == 79
    assert mine.split("test").labels == theirs.split("test").labels
    assert mine.split("test").keys == [f"{key}.jpg" for key in theirs.split("test").keys]
    assert not any(mine.split("test").unknown)
    assert mine.split("test").image(78).mode == "RGB"


def test_images_without_annotation_are_left_out_and_counted(own: Own, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark = own("said.csv", "image,labels\na.jpg,fox\n")
    assert [record.file for record in benchmark.records("test")] == ["a.jpg"]
    error = capsys.readouterr().err
    assert error.startswith("2 images in") and error.count("\n") == 1


def test_an_image_that_is_not_in_the_folder_stays_listed(own: Own) -> None:
    records = own("said.csv", "image,labels\nlost/z.jpg,fox\na.jpg,\n").records("test")
    assert [record.file for record in records] == ["lost/z.jpg", "a.jpg"]


@pytest.mark.parametrize(
    "written", ["c.png", "./wood/c.png", "elsewhere/c.png", "/home/me/photos/c.png", "C:\\photos\\c.png"]
)
def test_an_image_is_found_by_its_name_alone_where_there_is_one_of_it(own: Own, written: str) -> None:
    assert own("said.json", {written: ["fox"]}).records("test") == [Record("wood/c.png", "wood/c.png", ("fox",))]


def test_an_absolute_path_into_the_folder_is_fine(own: Own, tmp_path: Path) -> None:
    benchmark = own("said.json", {str(tmp_path / "photos/x/c.png"): ["fox"]}, photos=["x/c.png", "y/c.png"])
    assert [record.file for record in benchmark.records("test")] == ["x/c.png"]


def test_an_image_that_is_named_by_its_path_is_not_taken_for_another(own: Own) -> None:
    benchmark = own("said.json", {"x/c.png": ["fox"], "y/c.png": []}, photos=["x/c.png"])
    assert [record.file for record in benchmark.records("test")] == ["x/c.png", "y/c.png"]


def test_labels_come_in_the_order_of_the_label_set(own: Own) -> None:
    assert own("said.csv", "image,labels\na.jpg,hedgehog;badger;fox\n").records("test")[0].labels == NAMES


def test_a_class_without_column_is_unknown(own: Own) -> None:
    records = own("said.csv", "image,badger\na.jpg,1\nb.JPG,0\n").records("test")
    assert [(r.labels, r.unknown) for r in records] == [(("badger",), ("fox", "hedgehog")), ((), ("fox", "hedgehog"))]


@pytest.mark.parametrize("ask", ["count", "records", "sources"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_there_are_test_images_only(own: Own, ask: str, split: str) -> None:
    with pytest.raises(UserError, match=f"benchmark 'own' has no {split} images: methods that learn from real images"):
        getattr(own(train_images=20, val_images=20), ask)(split)


def test_a_size_that_is_asked_for_is_taken_without_reading(own: Own) -> None:
    assert own("said.csv", "no such columns", test_images=40).count("test") == 40


def test_annotations_that_change_are_read_again(own: Own, tmp_path: Path) -> None:
    benchmark = own("said.csv", "image,labels\na.jpg,fox\n")
    assert benchmark.count("test") == 1
    (tmp_path / "said.csv").write_text("image,labels\na.jpg,fox\nb.JPG,fox\n")
    os.utime(tmp_path / "said.csv", (1, 1))
    assert benchmark.count("test") == 2


TWICE = "give one path for each image"


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("said.csv", "", "said.csv is empty; its first line must name the columns"),
        ("said.csv", "\ufeff\r\n \r\n", "said.csv is empty"),
        ("said.csv", "image,labels\n", "said.csv lists no image"),
        ("said.csv", "photo,labels\na.jpg,fox\n", "line 2: none of its columns photo, labels is image or file or path"),
        ("said.csv", "image\na.jpg\n", "line 2: it has no column 'labels', and none that is named after a class"),
        ("said.csv", "image,fox,fox\na.jpg,1,1\n", "its first line has a column without name, or one name twice"),
        ("said.csv", "image,labels\na.jpg,fox,badger\n", "line 2: 3 cells in place of 2"),
        ("said.csv", 'image,labels\n\na.jpg,"fox\n', "line 3: it is no CSV"),
        ("said.csv", "image,labels\n,fox\n", "line 2: column 'image' names no image"),
        ("said.csv", "image,fox\na.jpg,yes\n", "line 2: column 'fox' has 'yes' in place of 1, 0, or -1 for unknown"),
        ("said.csv", "image,wolf\na.jpg,0\n", "'wolf', said of image 'a.jpg', is no class of label set .*labels.yaml'"),
        ("said.csv", "image,labels\na.jpg,fox;wolf\n", "'wolf', said of image 'a.jpg', is no class of label set"),
        ("said.csv", "image,labels,unknown\na.jpg,,wolf\n", "'wolf', said of image 'a.jpg', is no class of label set"),
        ("said.csv", "image,labels,unknown\na.jpg,fox,fox\n", "image 'a.jpg' has 'fox' as label and unknown"),
        ("said.csv", "image,labels\na.jpg,fox\na.jpg,fox\n", f"lists image 'a.jpg' twice; {TWICE}"),
        ("said.csv", "image,labels\nc.png,fox\nx/c.png,fox\n", f"lists image 'wood/c.png' twice; {TWICE}"),
        ("said.csv", "image,labels\n../secret.jpg,fox\n", "lists '../secret.jpg', which is not in folder"),
        ("said.csv", "image,labels\n/etc/secret.jpg,fox\n", r"lists '(\.\./)+etc/secret.jpg', which is not in folder"),
        ("said.csv", "image,labels\nä.jpg,fox\n".encode("latin-1"), r"said.csv is not UTF-8 text \(line 2\)"),
        ("said.csv", "image,labels\na.jpg,fox\n".encode("utf-16"), r"said.csv is not UTF-8 text \(line 1\)"),
        ("said.json", "{}", "said.json lists no image"),
        ("said.json", "3", "said.json has neither a list nor an object"),
        ("said.json", '{"a.jpg": ["fox"]', "said.json is damaged: it is no JSON"),
        ("said.json", '{"a.jpg": [], "a.jpg": ["fox"]}', "key 'a.jpg' is there twice in one object"),
        ("said.json", '{"a.jpg": [3]}', r"entry 1: labels \[3\] are neither a text nor a list of texts"),
        ("said.json", '{"a.jpg": {"fox": 1}}', "entry 1: labels .* are neither a text nor a list of texts"),
        ("said.json", '["a.jpg"]', "entry 1: it is no object with an image and labels"),
        ("said.json", coco_document(["a.jpg", "a.jpg"]), "two images have the same file_name"),
        ("said.json", coco_document(names=["fox", "wolf"]), "'wolf', said of image 'a.jpg', is no class of label set"),
        ("said.jsonl", '{"image": "a.jpg", "labels": []}\n{"image"', "said.jsonl, line 2: it is no JSON"),
        ("said.parquet", b"PAR1 and no more", "said.parquet is damaged: it is no Parquet"),
        ("said.parquet", pa.table({"image": [3], "labels": ["fox"]}), "row 1: column 'image' names no image"),
        ("said.xlsx", b"PK", "said.xlsx is none of .csv, .tsv, .json, .jsonl, .ndjson, .parquet"),
    ],
)  # fmt: skip
def test_flawed_annotations_are_refused(own: Own, name: str, content: Any, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        own(name, content).records("test")


def test_a_name_that_may_mean_two_images_is_refused(own: Own) -> None:
    with pytest.raises(UserError, match=r"lists 'c\.png', which may be x/c\.png or y/c\.png"):
        own("said.json", {"c.png": ["fox"]}, photos=["x/c.png", "y/c.png"]).records("test")


@pytest.mark.parametrize("ask", ["count", "records"])
def test_missing_annotations_are_refused(own: Own, tmp_path: Path, ask: str) -> None:
    with pytest.raises(UserError, match=r"benchmark.annotations: cannot read .*gone.csv \(No such file"):
        getattr(own(annotations=str(tmp_path / "gone.csv")), ask)("test")


@pytest.mark.parametrize("photos", [[], ["notes.txt", ".a.jpg"]])
def test_a_folder_without_images_is_refused(own: Own, photos: Sequence[str]) -> None:
    with pytest.raises(UserError, match=r"photos' has no image \(.bmp, .gif"):
        own(photos=photos).count("test")


def test_a_missing_folder_is_refused(own: Own, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"benchmark.path: there is no folder '.*gone'"):
        own(path=str(tmp_path / "gone")).count("test")


def test_counting_imports_nothing_heavy(own: Own, tmp_path: Path) -> None:
    own("said.csv", "image,labels\na.jpg,fox\n")
    code = f"""
import sys
from t2ipal.benchmarks import load
from t2ipal.settings import BenchmarkSettings
for more in ({{}}, {{"annotations": {str(tmp_path / "said.csv")!r}}}):
    print(load(BenchmarkSettings(name="own", path={str(tmp_path / "photos")!r}, **more)).count("test"))
print(sorted({{"torch", "pyarrow", "pandas", "open_clip"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["3", "1", "[]"]


BLOCK = re.compile(r"```\w+ ([\w.]+)\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize(("name", "content"), BLOCK.findall(PAGE.read_text(encoding="utf-8")))
def test_the_examples_of_the_page_say_what_it_says(own: Own, name: str, content: str) -> None:
    nobody_can_tell = name in ("said.csv", "columns.csv", "said.json", "said.jsonl")
    first = SAID[0] if nobody_can_tell else Record("wood/c.png", "wood/c.png", ())
    assert own(name, content).records("test") == [first, SAID[1]]
