"""Captions files, good and bad."""

from collections.abc import Callable
from pathlib import Path

import pytest

from t2ipal.errors import UserError
from t2ipal.synthesis.sources import read_captions


def test_captions_come_in_file_order_with_their_labels(captions: Path) -> None:
    read = read_captions(captions)
    assert [caption.caption_id for caption in read] == [f"{index:016x}" for index in range(11)]
    assert read[0].labels == ("cat", "dog")
    assert read[0].requested == ("dog",)
    assert read[3].text == "a photo of a dog, number 3 · 狗"


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.parquet does not exist; run the captions stage"):
        read_captions(tmp_path / "none.parquet")


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "captions.parquet"
    path.write_text("caption_id,text\n")
    with pytest.raises(UserError, match="cannot read captions from"):
        read_captions(path)


def test_a_lacking_column_is_named(tmp_path: Path, write_captions: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="lacks the column 'requested'"):
        read_captions(write_captions(tmp_path / "c.parquet", requested=None))


def test_no_captions_are_refused(tmp_path: Path, write_captions: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="holds no caption"):
        read_captions(write_captions(tmp_path / "c.parquet", count=0))


def test_repeated_caption_ids_are_refused(tmp_path: Path, write_captions: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="repeats a caption_id"):
        read_captions(write_captions(tmp_path / "c.parquet", count=2, caption_id=["a", "a"]))
