from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from t2ipal.errors import UserError
from t2ipal.pack import curves


def _log(directory: Path, name: str, samples: list[int]) -> None:
    lines = [json.dumps({"samples": count, "loss": 1 / count, "psnr": 20.0}) for count in samples]
    (directory / f"{name}.log.jsonl").write_text("\n".join(lines) + "\n")


def test_what_a_killed_sitting_repeated_counts_once(tmp_path: Path) -> None:
    _log(tmp_path, "clip", [10, 20, 30, 20, 35])
    assert [entry["samples"] for entry in curves.history(tmp_path, "clip")] == [10, 20, 35]


def test_all_four_trainings_are_drawn(tmp_path: Path) -> None:
    for name in curves.TITLES:
        _log(tmp_path, name, [10, 20])
    curves.draw(tmp_path, tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").size == (990, 550)


def test_a_training_that_was_not_done_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="clip"):
        curves.draw(tmp_path, tmp_path / "curves.png")
