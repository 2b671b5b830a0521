"""Choice of fusion weights and adapter sharpness on held-out training data, by mean average precision."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2ipal.evaluation.metrics import mean_average_precision

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Weights:
    """One point of the grid: local weight, adapter weight, adapter sharpness (None: no adapter)."""

    w_l: float
    alpha: float = 0.0
    beta: float | None = None


@dataclass(frozen=True)
class Selection:
    """The chosen weights, their held-out mAP, and the table of every point searched."""

    weights: Weights
    held_out_map: float
    table: list[dict[str, Any]]


def select(
    global_: Floats,
    local: Floats,
    adapters: dict[float, Floats],
    targets: NDArray[np.int8],
    local_weights: Iterable[float],
    alphas: Iterable[float] = (),
) -> Selection:
    """Search all ``s^g + w_l s^l + alpha s^a(beta)`` for the greatest mAP; of equals the smallest weights.

    Without a positive every point counts as zero.

    Args:
        global_: [N, C] global scores of the held-out samples.
        local: [N, C] local scores.
        adapters: adapter scores [N, C] before alpha, of the adapter learned with each beta; empty without adapter.
        targets: [N, C].
        local_weights: values of w_l to try.
        alphas: values of alpha to try, if there are adapters.
    """
    branches = sorted(product(set(alphas), adapters)) if adapters else [(0.0, None)]
    grid = [Weights(w_l, alpha, beta) for w_l in sorted(set(local_weights)) for alpha, beta in branches]
    table, best = [], None
    for weights in grid:
        scores = global_ + weights.w_l * local
        if weights.beta is not None:
            scores = scores + weights.alpha * adapters[weights.beta]
        value = mean_average_precision(scores, targets) if (targets == 1).any() else 0.0
        table.append({**asdict(weights), "mAP": value})
        if best is None or value > best[1]:
            best = weights, value
    if best is None:
        raise ValueError("the grid is empty")
    return Selection(*best, table)
