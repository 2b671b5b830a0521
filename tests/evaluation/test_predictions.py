from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from t2ipal.evaluation import predictions
from t2ipal.evaluation.calibration import Calibration, fit

SCORES = np.array([[4.0, 0.0], [-4.0, 0.5]], dtype=np.float32)


def _calibration() -> Calibration:
    """Thresholds 1 and 0.5."""
    return Calibration.from_dict({**_fitted().to_dict(), "thresholds": [1.0, 0.5]})


def _fitted() -> Calibration:
    scores = np.array([[3.0, 2.0], [2.0, 1.0], [-2.0, -1.0], [-3.0, -2.0]])
    return fit(scores, (scores > 0).astype(np.int8))


def _rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.reader(handle))


def test_labels_are_those_at_or_above_their_thresholds(tmp_path: Path) -> None:
    calibration = _calibration()
    predictions.write(tmp_path / "p.csv", ["a.jpg", "b.jpg"], ["fox", "badger"], SCORES, calibration)
    head, *rows = _rows(tmp_path / "p.csv")
    assert head == ["image", "labels", "fox", "badger"]
    assert [row[:2] for row in rows] == [["a.jpg", "fox"], ["b.jpg", "badger"]]
    found = np.array([[float(cell) for cell in row[2:]] for row in rows])
    assert found == pytest.approx(calibration.probabilities(SCORES), abs=1e-4)


def test_without_a_calibration_there_are_scores_and_no_decision(tmp_path: Path) -> None:
    predictions.write(tmp_path / "p.csv", ["a.jpg", "b.jpg"], ["fox", "badger"], SCORES)
    assert _rows(tmp_path / "p.csv") == [
        ["image", "fox", "badger"],
        ["a.jpg", "4.0000", "0.0000"],
        ["b.jpg", "-4.0000", "0.5000"],
    ]


def test_names_are_no_formulas_and_break_no_line(tmp_path: Path) -> None:
    predictions.write(tmp_path / "p.csv", ["=1+1.jpg", 'x,"\n.jpg'], ["@fox", "b"], SCORES, _calibration())
    head, first, second = _rows(tmp_path / "p.csv")
    assert head[2] == "'@fox" and first[:2] == ["'=1+1.jpg", "'@fox"] and second[0] == 'x,"\n.jpg'
