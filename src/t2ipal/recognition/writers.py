"""Predictions as lines: for people, for spreadsheets (CSV) and for programs (JSON lines), each written at once."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Literal, TextIO

from t2ipal.evaluation import predictions
from t2ipal.io import atomic_path
from t2ipal.recognition.recognizer import Prediction, Unreadable

Format = Literal["text", "csv", "json"]
# How many classes the text names where a model decides none.
_BEST = 3


class Writer:
    """Writes one prediction after the other.

    CSV has the columns of the evaluation stage's ``predictions.csv``, and as the last one ``unreadable``: the reason
    why an image could not be read.
    """

    def __init__(self, handle: TextIO, names: Sequence[str], decides: bool, kind: Format) -> None:
        self._handle, self._names, self._decides, self._kind = handle, names, decides, kind
        self._csv = csv.writer(handle)
        if kind == "csv":
            self._csv.writerow([*predictions.header(names, decides), "unreadable"])

    def write(self, found: Prediction | Unreadable) -> None:
        """Write a line."""
        if self._kind == "csv":
            self._csv.writerow(self._cells(found))
        elif self._kind == "json":
            self._handle.write(json.dumps(self._record(found), ensure_ascii=False, allow_nan=False) + "\n")
        else:
            self._handle.write(f"{found.image}\t{self._said(found)}\n")

    def _cells(self, found: Prediction | Unreadable) -> list[str]:
        if isinstance(found, Unreadable):
            empty = [""] * (len(self._names) + self._decides)
            return [predictions.cell(found.image), *empty, predictions.cell(found.reason)]
        values = found.scores if found.probabilities is None else found.probabilities
        return [*predictions.line(found.image, values, found.labels), ""]

    def _record(self, found: Prediction | Unreadable) -> dict[str, Any]:
        if isinstance(found, Unreadable):
            return {"image": found.image, "unreadable": found.reason}
        record: dict[str, Any] = {"image": found.image}
        if found.labels is not None and found.probabilities is not None:
            record["labels"] = list(found.labels)
            record["probabilities"] = self._by_class(found.probabilities)
        return {**record, "scores": self._by_class(found.scores)}

    def _by_class(self, values: Any) -> dict[str, float]:
        return {name: round(float(value), 6) for name, value in zip(self._names, values, strict=True)}

    def _said(self, found: Prediction | Unreadable) -> str:
        if isinstance(found, Unreadable):
            return f"cannot be read: {found.reason}"
        if found.labels is None or found.probabilities is None:
            best = found.scores.argsort()[::-1][:_BEST]
            return "scores " + ", ".join(f"{self._names[column]} {found.scores[column]:.2f}" for column in best)
        by_class = dict(zip(self._names, found.probabilities, strict=True))
        chosen = sorted(found.labels, key=lambda name: -by_class[name])
        return ", ".join(f"{name} {by_class[name]:.2f}" for name in chosen) or "none of the classes"


@contextmanager
def opened(output: Path | None) -> Iterator[TextIO]:
    """A file that appears when it is complete, or the standard output; UTF-8, whatever the names of files hold."""
    how: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    if output is not None:
        with atomic_path(output) as partial, partial.open("w", **how) as handle:
            yield handle
        return
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(**how)
    yield sys.stdout
    sys.stdout.flush()
