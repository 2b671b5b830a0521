"""Metrics of multi-label recognition, in numpy alone.

Everywhere ``scores`` is a float array [N, C] (higher: more likely), ``targets`` an integer array of the same
shape: 1 for positive, 0 for negative, -1 for unknown. Unknown entries are left out of everything. All metrics
are fractions of 1. Equal scores are never told apart by their order in the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating]
Targets = NDArray[np.integer]
Flags = NDArray[np.bool_]
ClassMetric = Callable[[Scores, Targets], float | None]


def check(scores: Scores, targets: Targets) -> None:
    """Refuse arrays that do not fit together.

    Raises:
        ValueError: the shapes differ, a score is not finite, or a target is not 1, 0 or -1.
    """
    if scores.shape != targets.shape:
        raise ValueError(f"scores {scores.shape} and targets {targets.shape} differ in shape")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    if not ((targets == 1) | (targets == 0) | (targets == -1)).all():
        raise ValueError("targets must be 1, 0 or -1")


def retrieved_counts(scores: Scores, targets: Targets) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """True positives and retrieved samples [T] at each distinct score of one class, highest score first."""
    known = targets >= 0
    scores, positive = scores[known], targets[known] == 1
    # Nothing but the last sample of each score is looked at, so any order among equals will do.
    order = np.argsort(-scores)
    scores, positive = scores[order], positive[order]
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if len(scores) else np.empty(0, np.int64)
    return np.cumsum(positive)[ends], ends + 1


def average_precision(scores: Scores, targets: Targets) -> float | None:
    """Non-interpolated average precision of one class, arrays [N]; None without a positive.

    AP = sum_t (R_t - R_{t-1}) P_t over the distinct scores t from high to low, as scikit-learn's
    ``average_precision_score`` has it: samples of equal score are retrieved together.
    """
    check(scores, targets)
    true, retrieved = retrieved_counts(scores, targets)
    if not len(true) or not true[-1]:
        return None
    return float(np.sum(np.diff(true, prepend=0) * (true / retrieved)) / true[-1])


def chance_average_precision(scores: Scores, targets: Targets) -> float | None:
    """The average precision that is expected of a random order of one class, arrays [N]; None without a positive.

    Of n images with p positives it is (p - 1) / (n - 1) + (n - p) / (n (n - 1)) * sum_{i <= n} 1 / i (Bestgen, "Exact
    Expected Average Precision of the Random Baseline for System Evaluation", 2015). Of ``scores`` nothing is read.
    """
    known, positives = int((targets >= 0).sum()), int((targets == 1).sum())
    if not positives:
        return None
    if positives == known:
        return 1.0
    harmonic = float(np.sum(1 / np.arange(1, known + 1)))
    return (positives - 1 + (known - positives) * harmonic / known) / (known - 1)


def voc11_average_precision(scores: Scores, targets: Targets) -> float | None:
    """VOC2007's eleven-point average precision of one class, arrays [N]; None without a positive.

    The mean, over recalls 0, 0.1, ..., 1, of the highest precision at that recall or a higher one (Everingham
    et al., "The PASCAL Visual Object Classes (VOC) Challenge", 2010, section 4.2). Recalls are compared as
    whole numbers, samples of equal score are retrieved together.
    """
    check(scores, targets)
    true, retrieved = retrieved_counts(scores, targets)
    if not len(true) or not true[-1]:
        return None
    best = np.maximum.accumulate((true / retrieved)[::-1])[::-1]
    first = np.searchsorted(10 * true, np.arange(11) * true[-1])
    return float(best[first].mean())


def average_precision_per_class(
    scores: Scores, targets: Targets, metric: ClassMetric = average_precision
) -> list[float | None]:
    """``metric`` of every class, arrays [N, C]; None for a class without a positive."""
    check(scores, targets)
    return [metric(scores[:, column], targets[:, column]) for column in range(scores.shape[1])]


def mean_average_precision(scores: Scores, targets: Targets, metric: ClassMetric = average_precision) -> float:
    """Mean of ``metric`` over the classes that have a positive, arrays [N, C].

    Raises:
        ValueError: no class has a positive; or the arrays do not fit together.
    """
    values = [value for value in average_precision_per_class(scores, targets, metric) if value is not None]
    if not values:
        raise ValueError("no class has a positive")
    return float(np.mean(values))


def top_k_predictions(scores: Scores, targets: Targets, k: int) -> Flags:
    """The ``k`` highest known classes of every sample [N, C]; of equal scores the class that stands first."""
    check(scores, targets)
    known = targets >= 0
    order = np.argsort(np.where(known, -scores, np.inf), axis=1, kind="stable")
    predictions = np.zeros(scores.shape, dtype=np.bool_)
    np.put_along_axis(predictions, order[:, :k], True, axis=1)
    return predictions & known


def threshold_predictions(scores: Scores, targets: Targets, thresholds: float | Scores) -> Flags:
    """Known classes whose score reaches the threshold, one for all or one per class [C]; result [N, C]."""
    check(scores, targets)
    return (scores >= thresholds) & (targets >= 0)


@dataclass(frozen=True)
class Classification:
    """Precision, recall and F1 per class (None for a class without a positive) and overall.

    ``CP`` and ``CR`` are means over the classes that have a positive (the precision of a class that is never
    predicted counts as 0), ``CF1`` their harmonic mean; ``OP``, ``OR`` and ``OF1`` count all decisions of all
    classes together (Wang et al., "CNN-RNN", CVPR 2016).
    """

    precision: list[float | None]
    recall: list[float | None]
    f1: list[float | None]
    CP: float
    CR: float
    CF1: float
    OP: float
    OR: float
    OF1: float


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def _masked(values: list[float], kept: list[bool]) -> list[float | None]:
    return [value if keep else None for value, keep in zip(values, kept, strict=True)]


def _f1(precision: float, recall: float) -> float:
    return _ratio(2 * precision * recall, precision + recall)


def classification(predictions: Flags, targets: Targets) -> Classification:
    """Precision, recall and F1 of yes/no ``predictions`` [N, C]; unknown entries count nowhere.

    Raises:
        ValueError: no class has a positive; or the arrays differ in shape.
    """
    if predictions.shape != targets.shape:
        raise ValueError(f"predictions {predictions.shape} and targets {targets.shape} differ in shape")
    positive = targets == 1
    true, predicted = (predictions & positive).sum(0), (predictions & (targets >= 0)).sum(0)
    actual = positive.sum(0)
    if not actual.any():
        raise ValueError("no class has a positive")
    precision = [_ratio(t, p) for t, p in zip(true, predicted, strict=True)]
    recall = [_ratio(t, a) for t, a in zip(true, actual, strict=True)]
    kept = [bool(count) for count in actual]
    mean_precision = float(np.mean([p for p, keep in zip(precision, kept, strict=True) if keep]))
    mean_recall = float(np.mean([r for r, keep in zip(recall, kept, strict=True) if keep]))
    overall_precision, overall_recall = _ratio(true.sum(), predicted.sum()), _ratio(true.sum(), actual.sum())
    f1 = [_f1(p, r) for p, r in zip(precision, recall, strict=True)]
    return Classification(
        precision=_masked(precision, kept),
        recall=_masked(recall, kept),
        f1=_masked(f1, kept),
        CP=mean_precision,
        CR=mean_recall,
        CF1=_f1(mean_precision, mean_recall),
        OP=overall_precision,
        OR=overall_recall,
        OF1=_f1(overall_precision, overall_recall),
    )


def expected_calibration_error(probabilities: Scores, targets: Targets, bins: int = 15) -> float:
    """Expected calibration error of all known yes/no decisions [N, C] together, the ``probabilities`` in [0, 1].

    ECE = sum_b n_b / n |mean probability of b - share of positives in b| over ``bins`` bins of equal width
    (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 5, with the probability of
    "yes" as confidence and the share of "yes" as accuracy). A bin holds its lower edge and not its upper one;
    the last bin also holds probability 1. Empty bins count nothing.

    Raises:
        ValueError: every target is unknown, a probability lies outside [0, 1], ``bins`` is below 1, or the
            arrays do not fit together.
    """
    check(probabilities, targets)
    if bins < 1:
        raise ValueError("bins must be at least 1")
    known = targets >= 0
    confidence, positive = probabilities[known].astype(np.float64), targets[known] == 1
    if not len(confidence):
        raise ValueError("no target is known")
    if confidence.min() < 0 or confidence.max() > 1:
        raise ValueError("probabilities must lie between 0 and 1")
    edges = np.linspace(0, 1, bins + 1)
    index = np.searchsorted(edges[1:-1], confidence, side="right")
    gap = np.bincount(index, weights=confidence - positive, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))
