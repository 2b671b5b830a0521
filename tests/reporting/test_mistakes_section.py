from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2ipal.errors import UserError
from t2ipal.evaluation.calibration import fit
from t2ipal.reporting.mistakes_section import SHOWN, mistakes_section, worst

TARGETS = np.array([[1, 0], [0, 1], [1, 1], [0, -1]])
VALUES = np.array([[-3.0, 2.0], [1.0, -1.0], [5.0, 4.0], [0.5, 9.0]])


def _pictures(keys):
    return [Image.new("RGB", (8, 8)) for _ in keys]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    scores = np.linspace(-3, 3, 12)[:, None].repeat(2, axis=1)
    (tmp_path / "model.json").write_text(json.dumps({"calibration": fit(scores, (scores > 0).astype(int)).to_dict()}))
    return tmp_path


def test_the_surest_wrong_and_the_least_sure_right_come_first(tmp_path: Path, model: Path, write_scores) -> None:
    path = write_scores(tmp_path / "s.parquet", TARGETS, VALUES)
    content = mistakes_section(path, model, "t2i-pal", 3, _pictures).content
    assert [(m.key, m.name) for m in content["alarms"]] == [("image-0", "dog"), ("image-1", "cat"), ("image-3", "cat")]
    assert [(m.key, m.name) for m in content["misses"]] == [("image-0", "cat"), ("image-1", "dog"), ("image-2", "dog")]
    assert content["alarms"][0].labels == ("cat",)
    assert content["calibrated"] and all(0 <= m.value <= 1 for m in (*content["alarms"], *content["misses"]))


def test_what_is_unknown_is_no_mistake(tmp_path: Path, model: Path, write_scores) -> None:
    path = write_scores(tmp_path / "s.parquet", TARGETS, VALUES)
    content = mistakes_section(path, model, "t2i-pal", 3, _pictures).content
    assert ("image-3", "dog") not in {(m.key, m.name) for m in content["alarms"]}


def test_an_image_stands_once_and_no_class_takes_all_places() -> None:
    values = np.arange(80.0).reshape(20, 4)
    places = worst(values, np.ones((20, 4), bool), SHOWN)
    assert len({row for row, _ in places}) == len(places) == SHOWN
    assert {sum(column == wanted for _, column in places) for wanted in range(4)} == {2}


def test_a_model_without_calibration_shows_its_scores(tmp_path: Path, write_scores) -> None:
    (tmp_path / "model.json").write_text("{}")
    path = write_scores(tmp_path / "s.parquet", TARGETS, VALUES)
    content = mistakes_section(path, tmp_path, "zero-shot", 3, _pictures).content
    assert not content["calibrated"] and content["alarms"][0].value == 2.0


def test_what_is_absent_unknown_or_damaged_is_said(tmp_path: Path, model: Path, write_scores) -> None:
    assert "is missing" in (mistakes_section(tmp_path / "none", model, "a", 0, _pictures).absent or "")
    unknown = write_scores(tmp_path / "s.parquet", -np.ones((2, 2)), np.ones((2, 2)))
    assert "no mistake" in (mistakes_section(unknown, model, "a", 0, _pictures).absent or "")
    (model / "model.json").write_text("[]")
    with pytest.raises(UserError, match="cannot read model"):
        mistakes_section(unknown, model, "a", 0, _pictures)
