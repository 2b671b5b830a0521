"""Probabilities and decision thresholds of every class, learned from scores of held-out data, never of test data.

``scores`` is a float array [N, C], ``targets`` an integer array of the same shape: 1 for positive, 0 for negative,
-1 for unknown, as in ``metrics``. Unknown entries are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from t2ipal.errors import UserError
from t2ipal.evaluation.metrics import Scores, Targets, check, retrieved_counts

Vector = NDArray[np.float64]

NEWTON_STEPS = 100
RIDGE = 1e-12
GRADIENT_TOLERANCE = 1e-10


def _sigmoid(values: Vector) -> Vector:
    # Without overflow on either side, and 1 exactly for +inf.
    return np.asarray(np.exp(-np.logaddexp(0, -values)))


def _logit(share: float) -> float:
    return float(np.log(share) - np.log1p(-share))


@dataclass(frozen=True)
class Calibration:
    """What turns the scores of C classes into probabilities and decisions.

    Args:
        slope: [C], at least 0, per unit of the score.
        intercept: [C], log-odds at score 0.
        thresholds: [C], in units of the score; a class is predicted when its score reaches it.

    Raises:
        ValueError: the three differ in length, are not lists of finite numbers, or a slope is negative.
    """

    slope: Vector
    intercept: Vector
    thresholds: Vector

    def __post_init__(self) -> None:
        arrays = asdict(self)
        if any(array.ndim != 1 or array.shape != self.slope.shape for array in arrays.values()):
            raise ValueError("slope, intercept and thresholds of a calibration differ in length")
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise ValueError(f"{name} of a calibration must be finite")
        if (self.slope < 0).any():
            raise ValueError("slope of a calibration must not be negative")

    def probabilities(self, scores: Scores) -> Vector:
        """sigmoid(slope s + intercept) of finite ``scores`` [N, C]; the result [N, C] lies in [0, 1].

        Raises:
            ValueError: ``scores`` has another number of classes.
        """
        if scores.ndim != 2 or scores.shape[1] != len(self.slope):
            raise ValueError(f"scores {scores.shape} do not fit a calibration of {len(self.slope)} classes")
        with np.errstate(over="ignore"):
            return _sigmoid(self.slope * scores.astype(np.float64) + self.intercept)

    def to_dict(self) -> dict[str, list[float]]:
        """The three lists by name, as JSON holds them without loss."""
        return {name: array.tolist() for name, array in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The calibration that ``to_dict`` wrote.

        Raises:
            ValueError: a list is missing, does not hold finite numbers, or differs in length from the others.
        """
        names = ("slope", "intercept", "thresholds")
        if not isinstance(values, Mapping) or not all(isinstance(values.get(name), list) for name in names):
            raise ValueError(f"a calibration holds the lists {', '.join(names)}")
        try:
            return cls(*(np.array(values[name], dtype=np.float64) for name in names))
        except TypeError as error:
            raise ValueError(f"a calibration holds numbers only ({error})") from None


def of_model(description: Mapping[str, Any], classes: int, model_dir: Path) -> Calibration | None:
    """The calibration in a model's description; None of a model that has learned nothing to calibrate on.

    Raises:
        UserError: it is damaged, or of another number of classes.
    """
    values = description.get("calibration")
    if values is None:
        return None
    try:
        found = Calibration.from_dict(values)
    except ValueError as error:
        raise UserError(f"key 'calibration' of model {model_dir} is damaged ({error}); train it again") from None
    if len(found.thresholds) != classes:
        raise UserError(
            f"key 'calibration' of model {model_dir} is of {len(found.thresholds)} classes, "
            f"the model recognises {classes}; train it again"
        )
    return found


def _smoothed(positive: NDArray[np.bool_]) -> Vector:
    """Platt's targets: (N+ + 1) / (N+ + 2) for a positive, 1 / (N- + 2) for a negative."""
    positives = int(positive.sum())
    negatives = len(positive) - positives
    return np.where(positive, (positives + 1) / (positives + 2), 1 / (negatives + 2))


def _loss(slope: float, intercept: float, scores: Vector, wanted: Vector) -> float:
    odds = slope * scores + intercept
    return float(np.sum(np.logaddexp(0, odds) - wanted * odds))


def _newton(scores: Vector, wanted: Vector) -> tuple[float, float]:
    """The slope and intercept of least cross-entropy, by Newton's method with step halving."""
    slope, intercept = 0.0, _logit(float(wanted.mean()))
    loss = _loss(slope, intercept, scores, wanted)
    for _ in range(NEWTON_STEPS):
        share = _sigmoid(slope * scores + intercept)
        gradient = np.array([np.sum((share - wanted) * scores), np.sum(share - wanted)])
        if np.abs(gradient).max() <= GRADIENT_TOLERANCE * len(scores):
            break
        weight = share * (1 - share)
        mixed = np.sum(weight * scores)
        hessian = np.array([[np.sum(weight * scores**2), mixed], [mixed, np.sum(weight)]])
        step = np.linalg.solve(hessian + RIDGE * len(scores) * np.eye(2), gradient)
        for size in 0.5 ** np.arange(40):
            tried = slope - size * step[0], intercept - size * step[1]
            lower = _loss(*tried, scores, wanted)
            if lower < loss:
                break
        else:
            break
        (slope, intercept), loss = tried, lower
    return slope, intercept


def _platt(scores: Vector, positive: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope (at least 0) and intercept of one set of decisions, arrays [N].

    The loss is convex: where its minimum has a negative slope, slope 0 is the best allowed, and with it the log-odds
    of the mean smoothed target as intercept.
    """
    wanted = _smoothed(positive)
    base = 0.0, _logit(float(wanted.mean()))
    # Newton's method sees scores of mean 0 and deviation 1; halves first, as their range may overflow.
    middle, half = scores.max() / 2 + scores.min() / 2, scores.max() / 2 - scores.min() / 2
    if not half:
        return base
    unit = (scores - middle) / half
    mean, deviation = unit.mean(), unit.std()
    slope, intercept = _newton((unit - mean) / deviation, wanted)
    with np.errstate(over="ignore", invalid="ignore"):
        slope /= deviation
        found = slope / half, intercept - slope * mean - slope / half * middle
    # Scores that differ by next to nothing would need a slope beyond what a float holds.
    return (float(found[0]), float(found[1])) if slope > 0 and np.isfinite(found).all() else base


def _best_threshold(scores: Vector, positive: NDArray[np.bool_]) -> float:
    """The threshold of highest F1 of one class with a positive, arrays [N]; of equally good ones the highest.

    Midway between the lowest score that is predicted and the next lower one; the lowest score if all are.
    """
    true, retrieved = retrieved_counts(scores, positive.astype(np.int8))
    count = retrieved[np.argmax(2 * true / (retrieved + true[-1]))]
    falling = np.sort(scores)[::-1]
    upper, lower = falling[count - 1], falling[min(count, len(falling) - 1)]
    middle = upper / 2 + lower / 2
    return float(middle if lower < middle <= upper else upper)


def _even_odds(slope: float, intercept: float, scores: Vector) -> float:
    """The score of probability 0.5; where there is none, the highest of ``scores``."""
    score = -intercept / slope if slope else np.inf
    return float(score if np.isfinite(score) else scores.max())


def fit(scores: Scores, targets: Targets) -> Calibration:
    """Calibrate every class on held-out ``scores`` and ``targets`` [N, C].

    Slope and intercept minimise the cross-entropy with smoothed targets (Platt, "Probabilistic Outputs for Support
    Vector Machines", 1999), by Newton's method with a ridge on the Hessian and step halving (Lin, Lin and Weng, "A
    Note on Platt's Probabilistic Outputs", 2007), over slopes that are not negative. The threshold is the one of
    highest F1. Reconstruction, for the paper calibrates nothing: a class without a known positive or negative takes
    slope and intercept of all classes' decisions together, one without a positive the threshold where these give
    probability 0.5 (or the highest score, if their slope is 0).

    Raises:
        ValueError: no target is known, or the arrays do not fit together.
    """
    check(scores, targets)
    if scores.ndim != 2 or not (targets >= 0).any():
        raise ValueError("calibration needs scores [N, C] with a known target")
    values, known, positive = scores.astype(np.float64), targets >= 0, targets == 1
    pooled = _platt(values[known], positive[known])
    even_odds = _even_odds(*pooled, values[known])
    parameters, thresholds = [], []
    for column, kept in enumerate(known.T):
        own, hits = values[kept, column], positive[kept, column]
        parameters.append(_platt(own, hits) if hits.any() and not hits.all() else pooled)
        thresholds.append(_best_threshold(own, hits) if hits.any() else even_odds)
    slope, intercept = np.array(parameters, dtype=np.float64).T
    return Calibration(slope, intercept, np.array(thresholds, dtype=np.float64))
