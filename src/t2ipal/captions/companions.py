"""Which classes are asked for together."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from t2ipal.errors import UserError
from t2ipal.labels import LabelSet

ONE_CLASS = 0.4


class Companions:
    """Draws the classes of a caption: its leading class and others that may stand beside it."""

    def __init__(self, labels: LabelSet, max_classes: int, pairs: str | None = None) -> None:
        """With ``pairs``, a CSV file of ``class,class,weight``, companions are drawn by weight (both ways).

        Raises:
            UserError: the file is missing, or a line of it does not fit; names the line.
        """
        self.names = labels.names
        self.most = min(max_classes, len(labels.names))
        self.pairs = None if pairs is None else _read(Path(pairs), labels)

    def draw(self, rng: np.random.Generator, lead: str) -> tuple[str, ...]:
        """``lead`` alone in 40 % of the draws (always with one class at most), else with one or more others.

        Without a table all other classes are equally likely, each once. With one, a companion is drawn in
        proportion to its weight beside ``lead``; a class that the table leaves alone stays alone.
        """
        count = 1 if self.most == 1 or rng.random() < ONE_CLASS else int(rng.integers(2, self.most + 1))
        first = self.names.index(lead)
        if self.pairs is not None:
            return (lead, *self._weighted(rng, lead, count - 1, self.pairs))
        others = rng.choice(len(self.names) - 1, size=count - 1, replace=False) if count > 1 else ()
        return (lead, *(self.names[int(other) + (int(other) >= first)] for other in others))

    def _weighted(
        self, rng: np.random.Generator, lead: str, count: int, pairs: Mapping[str, Mapping[str, float]]
    ) -> list[str]:
        weights = pairs.get(lead, {})
        names = [name for name in self.names if weights.get(name, 0) > 0]
        if not names or not count:
            return []
        values = np.array([weights[name] for name in names])
        chosen = rng.choice(len(names), size=min(count, len(names)), replace=False, p=values / values.sum())
        return [names[int(index)] for index in chosen]


def _read(path: Path, labels: LabelSet) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"cannot read captions.template.pairs {path}: {reason}") from None
    for number, row in enumerate(rows, 1):
        place = f"captions.template.pairs {path}, line {number}"
        if not row or row[0].startswith("#"):
            continue
        if len(row) != 3:
            raise UserError(f"{place}: expected class,class,weight")
        one, other = row[0].strip(), row[1].strip()
        for name in (one, other):
            if name not in labels.names:
                raise UserError(f"{place}: there is no class '{name}' in label set {labels.origin}")
        try:
            weight = float(row[2])
        except ValueError:
            weight = -1.0
        if one == other or not 0 <= weight < float("inf"):
            raise UserError(f"{place}: needs two different classes and a weight of 0 or more")
        table.setdefault(one, {})[other] = weight
        table.setdefault(other, {})[one] = weight
    return table
