from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t2ipal import benchmarks
from t2ipal.benchmarks.base import FileBenchmark, Record
from t2ipal.errors import UserError
from t2ipal.labels import LabelSet
from t2ipal.settings import BenchmarkSettings

NAMES = LabelSet.load("coco").names


def load(path: Path | None, name: str = "coco2017", **more: Any) -> FileBenchmark:
    settings = BenchmarkSettings.model_validate({"name": name, "labels": "coco", "path": path and str(path), **more})
    found = benchmarks.load(settings)
    assert isinstance(found, FileBenchmark)
    return found


def image(identity: Any, file: str) -> dict[str, Any]:
    return {"id": identity, "file_name": file, "height": 1, "width": 1}


def annotation(picture: Any, category: Any, crowd: int = 0) -> dict[str, Any]:
    polygon: Any = {"counts": [1, 2], "size": [3, 1]} if crowd else [[0.5, 1.5, 2.0, 3.25]]
    return {
        "image_id": picture,
        "category_id": category,
        "segmentation": polygon,
        "iscrowd": crowd,
        "bbox": [0, 0, 1, 1],
    }


def document() -> dict[str, Any]:
    """Three images; categories in another order than the official one, with other ids."""
    return {
        "images": [image(30, "c.jpg"), image(4, "a.jpg"), image(10, "b.jpg")],
        "annotations": [annotation(30, 104), annotation(4, 117, crowd=1), annotation(30, 104), annotation(30, 101)],
        "categories": [{"id": 101 + i, "name": name, "supercategory": "thing"} for i, name in enumerate(NAMES[::-1])],
    }


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write ``val2017`` annotations, or other ones."""

    def written(content: Any, edition: str = "val2017") -> Path:
        (tmp_path / "annotations").mkdir(exist_ok=True)
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        path = tmp_path / f"annotations/instances_{edition}.json"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path

    return written


@pytest.mark.parametrize("split", ["train", "test"])
def test_positives_of_real_images_are_those_of_the_annotations(coco: Path, split: str) -> None:
    part = {"train": "train2017", "test": "val2017"}[split]
    content = json.loads((coco / f"annotations/instances_{part}.json").read_text())
    records = load(coco).records(split)
    assert [int(record.key) for record in records] == sorted(entry["id"] for entry in content["images"])
    for category in content["categories"]:
        expected = {a["image_id"] for a in content["annotations"] if a["category_id"] == category["id"]}
        assert {int(record.key) for record in records if category["name"] in record.labels} == expected
    assert not any(record.unknown for record in records)


def test_real_photographs_are_found(coco: Path) -> None:
    split = load(coco, test_images=79).split("test")
    assert split.protocol == "coco2017/test-79/unlabelled-in"
    assert all(split.image(index).mode == "RGB" for index in (0, 78))


def test_images_are_ascending_and_categories_are_told_by_name(write: Write) -> None:
    assert load(write(document())).records("test") == [
        Record("a", "val2017/a.jpg", (NAMES[79 - 16],)),
        Record("b", "val2017/b.jpg", ()),
        Record("c", "val2017/c.jpg", (NAMES[79 - 3], NAMES[79])),
    ]


def test_images_without_any_annotation_are_left_out_if_asked(write: Write) -> None:
    benchmark = load(write(document()), unlabelled="out")
    assert [record.key for record in benchmark.records("test")] == ["a", "c"]
    assert benchmark.protocol("test") == "coco2017/test-4952/unlabelled-out"


def test_images_may_lie_in_a_directory_of_images(write: Write) -> None:
    root = write(document())
    (root / "images/val2017").mkdir(parents=True)
    assert load(root).records("test")[0].file == "images/val2017/a.jpg"


@pytest.mark.parametrize(
    ("name", "unlabelled", "train", "test"),
    [
        ("coco2014", "in", 82783, 40504),
        ("coco2014", "out", 82081, 40137),
        ("coco2017", "in", 118287, 5000),
        ("coco2017", "out", 117266, 4952),
    ],
)
def test_official_sizes_need_no_data(name: str, unlabelled: str, train: int, test: int) -> None:
    benchmark = load(None, name, unlabelled=unlabelled)
    assert (benchmark.count("train"), benchmark.count("test")) == (train, test)
    assert benchmark.check_labels().names == benchmark.names()


def test_an_edition_has_its_own_files(write: Write) -> None:
    assert load(None, "coco2014").sources("test") == [Path("data/coco/annotations/instances_val2014.json")]
    assert load(None, "coco2017").sources("train") == [Path("data/coco/annotations/instances_train2017.json")]
    root = write(document(), "train2014")
    assert load(root, "coco2014").records("train")[0].file == "train2014/a.jpg"


def test_there_is_no_validation_split() -> None:
    with pytest.raises(UserError, match="benchmark 'coco2017' has no images for 'val'"):
        load(None).records("val")


def test_a_byte_order_mark_does_not_matter(write: Write) -> None:
    root = write(b"\xef\xbb\xbf" + json.dumps(document(), indent=1).replace("\n", "\r\n").encode())
    assert len(load(root).records("test")) == 3


def changed(**changes: Any) -> dict[str, Any]:
    return {**document(), **changes}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (changed(images=[image(4, "a.jpg"), image(4, "b.jpg")], annotations=[]), "image id 4 is there twice"),
        (changed(images=[image(4, "a.jpg"), image(5, "a.jpg")], annotations=[]), "two images have the same file_name"),
        (changed(images=[image([4], "a.jpg")]), r"image \[4\] has no proper id and name"),
        (changed(images=[image(4, "../a.jpg")], annotations=[]), "names image '../a.jpg', which is no plain file name"),
        (changed(images=[{"id": 4}]), "an entry lacks key 'file_name'"),
        (changed(images=["a.jpg"]), "an entry of 'images' is no object"),
        (changed(annotations=[annotation(5, 101)]), "an annotation names image 5, which it does not list"),
        (changed(annotations=[annotation([4], 101)]), "is no valid file of COCO instances: .*unhashable"),
        (changed(annotations=[annotation(4, 91)]), "annotation of image 4 names category 91, which it does not list"),
        (changed(annotations=[{"image_id": 4, "caption": "a cat"}]), "an entry lacks key 'category_id'"),
        (changed(categories=document()["categories"][1:], annotations=[]), "lacks category 'toothbrush', unlike COCO"),
        (changed(categories=[*document()["categories"], {"id": 1, "name": "hat"}]), "has category 'hat', unlike COCO"),
        (changed(categories=None), "has no list 'categories'"),
        ([], "has no list 'images'"),
        (json.dumps(document())[:-200], "instances_val2017.json is damaged: it is no JSON .* get it anew"),
        ("[" * 100_000, r"it is no JSON \(nested too deeply\)"),
        ('{"images": [], "images": []}', "key 'images' is there twice in one object"),
        ("", "it is no JSON"),
        (json.dumps(document()).replace("a.jpg", "ä.jpg").encode("latin-1"), "is not UTF-8 text"),
    ],
)  # fmt: skip
def test_a_flawed_file_is_refused(write: Write, content: Any, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        load(write(content)).records("test")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read annotation file .*instances_val2017.json \(No such file"):
        load(tmp_path).records("test")
