"""The report's section on a model's worst mistakes: what it was surest of and wrong, and what it missed by most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2ipal.errors import UserError
from t2ipal.evaluation.calibration import of_model
from t2ipal.evaluation.scores import Scores, read
from t2ipal.io import read_json
from t2ipal.reporting import figures
from t2ipal.reporting.section import Section

HEAD = ("mistakes", "Worst mistakes", "mistakes.html.j2")
SHOWN = 8

Pictures = Callable[[Sequence[str]], list[Image.Image]]


@dataclass(frozen=True)
class Mistake:
    """A test image and the class it was mistaken in; ``value`` is a probability, or a score if not ``calibrated``."""

    key: str
    name: str
    value: float
    labels: tuple[str, ...]
    picture: str
    width: int
    height: int


def worst(values: NDArray[np.floating], candidates: NDArray[np.bool_], count: int) -> list[tuple[int, int]]:
    """Rows and columns of the highest ``values`` [N, C] among ``candidates`` [N, C].

    Each row once, and no column more often than others could be: a page of one image or class would say little.
    """
    open_, found = np.where(candidates, values, -np.inf), list[tuple[int, int]]()
    quota = -(-count // max(values.shape[1], 1))
    while len(found) < count and np.isfinite(best := open_.max(initial=-np.inf)):
        row, column = (int(place) for place in np.argwhere(open_ == best)[0])
        found.append((row, column))
        open_[row] = -np.inf
        if sum(taken == column for _, taken in found) == quota:
            open_[:, column] = -np.inf
    return found


def _values(scores: Scores, model: Path) -> tuple[NDArray[np.floating], bool]:
    """What to order mistakes of different classes by: probabilities if the model is calibrated."""
    try:
        found = of_model(read_json(model / "model.json"), len(scores.names), model)
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"cannot read model {model} ({error}); train it again") from None
    return (scores.values, False) if found is None else (found.probabilities(scores.values), True)


def mistakes_section(path: Path, model: Path, method: str, seed: int, pictures: Pictures) -> Section:
    """The worst false alarms and misses of a model, each with its test image.

    Args:
        path: its ``scores.parquet``.
        model: its directory.
        method: its method.
        seed: its seed.
        pictures: gives the test images of keys.

    Raises:
        UserError: a file is damaged.
    """
    if not path.is_file():
        return Section(*HEAD, {}, f"The scores of {method} are not there: {path} is missing.")
    scores = read(path)
    values, calibrated = _values(scores, model)
    alarms = worst(values, scores.targets == 0, SHOWN)
    misses = worst(-values, scores.targets == 1, SHOWN)
    chosen = [*alarms, *misses]
    images = pictures([scores.keys[row] for row, _ in chosen]) if misses else []
    found = [_mistake(scores, values, place, image) for place, image in zip(chosen, images, strict=False)]
    content = {
        "method": method,
        "seed": seed,
        "calibrated": calibrated,
        "alarms": found[: len(alarms)],
        "misses": found[len(alarms) :],
    }
    return Section(*HEAD, content, None if misses else "No label of these images is known, so no mistake is.")


def _mistake(scores: Scores, values: NDArray[np.floating], place: tuple[int, int], image: Image.Image) -> Mistake:
    row, column = place
    picture = figures.fit(image)
    labels = tuple(name for name, target in zip(scores.names, scores.targets[row], strict=True) if target == 1)
    value = float(values[row, column])
    return Mistake(scores.keys[row], scores.names[column], value, labels, figures.data_uri(picture), *picture.size)
