"""The numbers of a model card: of every seed, with calibration and thresholds and without."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from t2ipal.errors import UserError
from t2ipal.evaluation import metrics
from t2ipal.evaluation.calibration import Calibration, of_model
from t2ipal.evaluation.scores import SCORES_FILE, read
from t2ipal.evaluation.stage import TOP_K
from t2ipal.recognition.provenance import METRICS_FILE, Evaluation

Grid = NDArray[np.float32]


@dataclass(frozen=True)
class Figure:
    """A number, as fractions, of each seed: mean, and sample standard deviation (None of a single seed)."""

    name: str
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float | None:
        """Over the seeds."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def _f1(chosen: NDArray[np.bool_], targets: NDArray[np.int8]) -> dict[str, float]:
    found = metrics.classification(chosen & (targets >= 0), targets)
    return {"CF1": found.CF1, "OF1": found.OF1}


def _decisions(scores: Grid, targets: NDArray[np.int8], calibration: Calibration | None) -> dict[str, float]:
    """F1 and calibration error of the ways to decide."""
    plain = 1 / (1 + np.exp(-scores.astype(np.float64)))
    ways = {
        "the sigmoid of the score, 0.5 for all": plain >= 0.5,
        f"the {TOP_K} highest scores of each image": metrics.top_k_predictions(scores, targets, TOP_K),
    }
    found = {"ECE of the sigmoid of the score": metrics.expected_calibration_error(plain, targets)}
    if calibration is not None:
        probabilities = calibration.probabilities(scores)
        ways["calibrated probability, 0.5 for all"] = probabilities >= 0.5
        ways["calibrated, threshold of each class"] = scores >= calibration.thresholds
        found["ECE of the calibrated probability"] = metrics.expected_calibration_error(probabilities, targets)
    for way, chosen in ways.items():
        found |= {f"{name} by {way}": value for name, value in _f1(chosen, targets).items()}
    return found


@dataclass(frozen=True)
class Table:
    """What was measured under one protocol, on one benchmark, with these seeds (None: it learns nothing)."""

    benchmark: str
    protocol: str
    seeds: tuple[int | None, ...]
    figures: tuple[Figure, ...]


def _measured(evaluation: Evaluation) -> dict[str, float]:
    given = evaluation.metrics["metrics"]
    found: dict[str, float] = {name: given[name] for name in ("mAP", "mAP_chance") if name in given}
    try:
        stored = read(evaluation.directory / SCORES_FILE)
    except UserError:  # a card can do without
        return found
    calibration = of_model(evaluation.model, len(stored.names), evaluation.directory)
    return found | _decisions(stored.values, stored.targets, calibration)


def tables(evaluations: Sequence[Evaluation]) -> list[Table]:
    """What was measured, a table for each protocol, as numbers of different ones are never joined.

    Of several measurements of one seed the newest counts; numbers that a seed lacks are left out.
    """
    groups: dict[tuple[str, str], dict[int | None, Evaluation]] = {}
    for evaluation in sorted(evaluations, key=lambda one: (one.directory / METRICS_FILE).stat().st_mtime_ns):
        key = (str(evaluation.metrics.get("benchmark")), str(evaluation.metrics.get("protocol")))
        groups.setdefault(key, {})[evaluation.seed] = evaluation
    found = []
    for (benchmark, protocol), by_seed in groups.items():
        seeds = sorted(by_seed, key=lambda seed: -1 if seed is None else seed)
        rows = [_measured(by_seed[seed]) for seed in seeds]
        names = [name for name in rows[0] if all(name in row for row in rows)]
        numbers = tuple(Figure(name, tuple(row[name] for row in rows)) for name in names)
        found.append(Table(benchmark, protocol, tuple(seeds), numbers))
    return found
