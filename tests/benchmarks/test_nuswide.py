from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t2ipal import benchmarks
from t2ipal.benchmarks.base import FileBenchmark, Record
from t2ipal.errors import UserError
from t2ipal.labels import LabelSet
from t2ipal.settings import BenchmarkSettings

NAMES = LabelSet.load("nuswide").names
IMAGES = 30
# [images, 81] by split; the last five images have no label.
MATRICES = {
    part: np.random.default_rng(seed).random((IMAGES, 81)) < 0.05 for seed, part in enumerate(("Train", "Test"))
}
for _matrix in MATRICES.values():
    _matrix[: IMAGES - 5, 42] = True
    _matrix[IMAGES - 5 :] = False


def load(path: Path, **more: Any) -> FileBenchmark:
    settings = BenchmarkSettings.model_validate({"name": "nuswide", "labels": "nuswide", "path": str(path), **more})
    found = benchmarks.load(settings)
    assert isinstance(found, FileBenchmark)
    return found


def image_name(index: int) -> tuple[str, str]:
    """Directory and file of an image in the manner of NUS-WIDE."""
    return ("actor", "zebra")[index % 2], f"{index:04d}_{2124494179 + index}.jpg"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The official layout, without images: lists with backslashes, 162 files of labels, the list of concepts."""
    for directory in ("ImageList", "TrainTestLabels", "ConceptsList"):
        (tmp_path / directory).mkdir()
    for part, matrix in MATRICES.items():
        lines = "".join("\\".join(image_name(index)) + "\r\n" for index in range(IMAGES))
        (tmp_path / f"ImageList/{part}Imagelist.txt").write_text(lines, newline="")
        for name, column in zip(NAMES, matrix.T, strict=True):
            labels = "".join(f"{int(value)}\n" for value in column)
            (tmp_path / f"TrainTestLabels/Labels_{name}_{part}.txt").write_text(labels)
    (tmp_path / "ConceptsList/Concepts81.txt").write_text("\n".join(NAMES) + "\n")
    return tmp_path


@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_are_those_of_the_matrix(root: Path, split: str) -> None:
    records = load(root).records(split)
    matrix = MATRICES[split.capitalize()]
    assert [[name in record.labels for name in NAMES] for record in records] == matrix.tolist()
    assert records[0].key == "actor/0000_2124494179" and records[1].file == "Flickr/zebra/0001_2124494180.jpg"
    assert records[-1] == Record("zebra/0029_2124494208", "Flickr/zebra/0029_2124494208.jpg", ())


def test_images_without_any_label_are_left_out_if_asked(root: Path) -> None:
    benchmark = load(root, unlabelled="out")
    assert benchmark.records("test") == load(root).records("test")[: IMAGES - 5]
    assert (benchmark.count("train"), benchmark.count("test")) == (125449, 83898)
    assert benchmark.protocol("test") == "nuswide/test-83898/unlabelled-out"


def test_official_sizes_need_no_data(tmp_path: Path) -> None:
    benchmark = load(tmp_path)
    assert (benchmark.count("train"), benchmark.count("test")) == (161789, 107859)
    assert benchmark.check_labels().names == benchmark.names()
    with pytest.raises(UserError, match="benchmark 'nuswide' has no images for 'val'"):
        benchmark.records("val")


def test_every_file_of_labels_is_a_source(root: Path) -> None:
    sources = load(root).sources("test")
    assert sources[0] == root / "ImageList/TestImagelist.txt"
    assert sources[1:] == [root / f"TrainTestLabels/Labels_{name}_Test.txt" for name in NAMES]


Place = Callable[[str, str], str]


@pytest.mark.parametrize(
    "place",
    [
        lambda directory, file: f"Flickr/{directory}/{file}",
        lambda directory, file: f"images/{directory}/{file}",
        lambda _, file: f"images/{file}",
        lambda _, file: f"images/{file.partition('_')[2]}",
    ],
)
def test_images_are_found_in_any_of_four_places(root: Path, place: Place) -> None:
    expected = [place(*image_name(index)) for index in range(IMAGES)]
    (root / expected[7]).parent.mkdir(parents=True)
    (root / expected[7]).write_bytes(b"")
    assert [record.file for record in load(root).records("test")] == expected


def test_files_may_lie_as_others_unpack_them(root: Path) -> None:
    expected = load(root).records("test")
    (root / "Groundtruth").mkdir()
    (root / "TrainTestLabels").rename(root / "Groundtruth/TrainTestLabels")
    (root / "ImageList/TestImagelist.txt").rename(root / "TestImagelist.txt")
    (root / "ConceptsList/Concepts81.txt").rename(root / "Concepts81.txt")
    assert load(root).records("test") == expected


def test_concepts_may_be_listed_in_another_order_or_not_at_all(root: Path) -> None:
    expected = load(root).records("test")
    concepts = root / "ConceptsList/Concepts81.txt"
    concepts.write_text("\ufeff" + "\r\n".join(NAMES[::-1]), newline="")
    assert load(root).records("test") == expected
    concepts.unlink()
    assert load(root).records("test") == expected


def test_other_concepts_are_refused(root: Path) -> None:
    (root / "ConceptsList/Concepts81.txt").write_text("\n".join([*NAMES[1:], "unicycle"]))
    with pytest.raises(UserError, match=r"Concepts81.txt lacks concept 'airport', unlike NUS-WIDE's 81 concepts"):
        load(root).records("test")


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("TrainTestLabels/Labels_cat_Test.txt", "1\n" * 29, r"cat_Test.txt has 29 labels, but .*list.txt has 30 im"),
        ("TrainTestLabels/Labels_cat_Test.txt", "1\n" * 31, r"cat_Test.txt has 31 labels, but .*list.txt has 30 im"),
        ("TrainTestLabels/Labels_cat_Test.txt", "0\n2\n" * 15, "cat_Test.txt has '2' as label 2, which must be 0 or 1"),
        ("TrainTestLabels/Labels_cat_Test.txt", "01\n" * 30, "cat_Test.txt has '01' as label 1"),
        ("TrainTestLabels/Labels_cat_Test.txt", "\xe9\n" * 30, "cat_Test.txt is not UTF-8 text"),
        ("ImageList/TestImagelist.txt", "a\\1.jpg\n" * 30, "lists 'a/1.jpg' twice or outside its directory"),
        ("ImageList/TestImagelist.txt", "..\\1.jpg\n", r"lists '\.\./1.jpg' twice or outside its directory"),
        ("ImageList/TestImagelist.txt", "\r\n", "TestImagelist.txt is empty"),
    ],
)  # fmt: skip
def test_flawed_files_are_refused(root: Path, file: str, content: str, complaint: str) -> None:
    (root / file).write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=complaint):
        load(root).records("test")


@pytest.mark.parametrize("file", ["TrainTestLabels/Labels_zebra_Test.txt", "ImageList/TestImagelist.txt"])
def test_missing_files_are_refused_by_their_official_place(root: Path, file: str) -> None:
    (root / file).unlink()
    with pytest.raises(UserError, match=f"cannot read annotation file .*{file}"):
        load(root).records("test")
