from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from t2ipal.captions.corpora import Line, read
from t2ipal.captions.leaks import LeakCheck, evaluation_ids, image_id
from t2ipal.errors import UserError
from t2ipal.settings import CorpusSettings

COCO = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("42", "42"), ("42.0", "42"), (" 42 ", "42"), ("000000000042", "42"), ("000000000042.jpg", "42"), ("0", "0"),
        ("000", "0"), ("COCO_val2014_000000000042.jpg", "42"), ("COCO_train2014_000000000420", "420"),
        ("val2014/COCO_val2014_000000000042.JPG", "42"), ("images\\42.png", "42"), ("http://host/a/42.jpeg", "42"),
        ("2007_000032.jpg", "2007_000032"), ("actor\\0001_2124494179.jpg", "0001_2124494179"),
        ("000a1249af2bc5f0", "000a1249af2bc5f0"), ("train/000a1249af2bc5f0.jpg", "000a1249af2bc5f0"),
        ("42.5", "42.5"), ("a.b.jpg", "a.b"), ("", ""),
    ],
)  # fmt: skip
def test_ids_and_file_names_of_one_image_are_one_id(value: str, expected: str) -> None:
    assert image_id(value) == expected


DOCUMENT = {
    "annotations": [{"id": 5, "image_id": 42, "bbox": [1, 2, 3, 4]}],
    "images": [{"file_name": "COCO_val2014_000000000042.jpg", "id": 42}, {"file_name": "7.jpg", "id": 7}],
    "categories": [{"id": 1, "name": "person"}],
}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("instances.json", json.dumps(DOCUMENT).encode()),
        ("instances.json", b"\xef\xbb\xbf\n" + json.dumps(DOCUMENT, indent=1).encode()),
        ("instances.json.gz", gzip.compress(json.dumps(DOCUMENT).encode())),
        ("ids.txt", b"42\n7\n"),
        ("names.txt", b"COCO_val2014_000000000042.jpg\r\n\r\nval2014/COCO_val2014_000000000007.jpg"),
        ("voc.txt", b"000042  1\n000007 -1\n"),
        ("table.csv", b"42,http://images/1.jpg\n7,http://images/2.jpg\n"),
        ("ids.gz", gzip.compress(b"42\n7")),
    ],
)
def test_ids_are_read_from_coco_json_and_from_lists(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "more").write_bytes(b"9\n42\n")
    assert evaluation_ids((str(tmp_path / name),)) == {"42", "7"}
    assert evaluation_ids((str(tmp_path / "*"),)) == {"42", "7", "9"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"ids holds no image id"),
        (b"\n \n", r"ids holds no image id"),
        (b'{"annotations": [{"id": 1}]}', r"ids holds no image id"),
        (b'{"images": [{"file_name": "1.jpg"}]}', r"ids holds no image id"),
        (b'{"images": [{"id": 1}', r"cannot read .*ids to its end"),
        (gzip.compress(b"42\n7")[:-6], r"cannot read .*ids to its end"),
    ],
)
def test_a_file_without_ids_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "ids").write_bytes(content)
    with pytest.raises(UserError, match=rf"captions\.corpus\.evaluation_ids: .*{message}"):
        evaluation_ids((str(tmp_path / "ids"),))


def test_a_missing_file_of_ids_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"captions\.corpus\.evaluation_ids: there is no file .*none\.json"):
        LeakCheck(CorpusSettings(evaluation_ids=(str(tmp_path / "none.json"),)))


def _check(tmp_path: Path, **changes: Any) -> LeakCheck:
    (tmp_path / "ids").write_text("000000000042.jpg\n7\n8\n")
    return LeakCheck(CorpusSettings(evaluation_ids=(str(tmp_path / "ids"),), **changes))


LINES = [
    Line("A dog", "1", "a.json, annotation 1"),
    Line("A cat", "COCO_val2014_000000000042.jpg", "a.json, annotation 2"),
    Line("A bus", "7", "a.json, annotation 3"),
    Line("Cats", "42", "a.json, annotation 4"),
]


def test_captions_of_evaluation_images_are_refused_with_their_number_and_an_example(tmp_path: Path) -> None:
    check = _check(tmp_path)
    for line in LINES:
        check.see(line)
    with pytest.raises(UserError) as caught:
        check.judge()
    assert str(caught.value) == (
        "captions.corpus.files hold 3 captions of 2 evaluation images, first image 42 at a.json, annotation 2; use "
        "captions of training images (for COCO2014: captions_train2014.json), or set "
        "captions.corpus.allow_evaluation: true"
    )


def test_captions_of_evaluation_images_that_are_allowed_are_counted(tmp_path: Path) -> None:
    check = _check(tmp_path, allow_evaluation=True)
    for line in [*LINES, Line("A horse", None, "a.txt, line 1")]:
        check.see(line)
    check.judge()
    assert check.facts() == {
        "checked": True,
        "evaluation_images": 3,
        "captions": 3,
        "images": 2,
        "captions_without_id": 1,
        "allowed": True,
    }


def test_a_corpus_of_other_images_passes(tmp_path: Path) -> None:
    check = _check(tmp_path)
    check.see(LINES[0])
    check.judge()
    assert (check.facts()["captions"], check.facts()["images"], check.facts()["allowed"]) == (0, 0, False)


def test_a_caption_without_image_cannot_be_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be checked: no image id at a\.txt, line 9; .*image_column"):
        _check(tmp_path).see(Line("A dog", None, "a.txt, line 9"))


def test_without_ids_nothing_is_checked() -> None:
    check = LeakCheck(CorpusSettings())
    check.see(Line("A dog", None, "a.txt, line 9"))
    check.judge()
    assert check.facts() == {"checked": False}


@pytest.mark.skipif(not COCO.is_dir(), reason="the sample of real COCO files is not beside the project")
def test_the_real_captions_of_val2017_leak_and_those_of_train2017_do_not() -> None:
    annotations = COCO / "annotations"
    settings = CorpusSettings(evaluation_ids=(str(annotations / "instances_val2017.json"),))
    for split, leaked in (("train2017", (0, 0)), ("val2017", (395, 79))):
        check = LeakCheck(settings)
        for line in read([annotations / f"captions_{split}.json"], settings):
            check.see(line)
        facts = check.facts()
        assert facts["evaluation_images"] == 79
        assert (facts["captions"], facts["images"]) == leaked
