"""What a model recognises in images of one's own, as a table for a spreadsheet."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2ipal.evaluation.calibration import Calibration
from t2ipal.io import atomic_path

FILE = "predictions.csv"
# What a spreadsheet would take for a formula gets an apostrophe before it.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def header(names: Sequence[str], decided: bool) -> list[str]:
    """The heads of the columns; that of the labels only where some are decided."""
    return ["image", *(["labels"] if decided else []), *map(cell, names)]


def line(key: str, values: NDArray[np.floating[Any]], chosen: Iterable[str] | None) -> list[str]:
    """The cells of an image: its name, its labels unless None, and the values [C]."""
    return [cell(key), *([] if chosen is None else [cell("; ".join(chosen))]), *(f"{value:.4f}" for value in values)]


def write(
    path: Path,
    keys: Sequence[str],
    names: Sequence[str],
    scores: NDArray[np.float32],
    calibration: Calibration | None = None,
) -> None:
    """Write a line for every image: its name, the labels recognised, and a column for each class.

    Args:
        path: the CSV file.
        keys: [N] names of the images.
        names: [C] classes.
        scores: [N, C].
        calibration: of the model. With it the columns are probabilities, and labels those above their thresholds;
            without, as of a model that has learned nothing, columns are raw scores and no label is decided.
    """
    values = scores if calibration is None else calibration.probabilities(scores)
    above = None if calibration is None else scores >= calibration.thresholds
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(header(names, above is not None))
        for row, key in enumerate(keys):
            chosen = None if above is None else [name for name, is_in in zip(names, above[row], strict=True) if is_in]
            writer.writerow(line(key, values[row], chosen))
