"""Choice of fusion weights and adapter sharpness on held-out training data, by mean average precision."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def average_precision(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """Non-interpolated average precision of one class: ``sum_n (R_n - R_{n-1}) P_n`` over distinct scores [N].

    Samples of equal score enter together, so their order does not matter.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last_of_tie = np.append(ranked[1:] != ranked[:-1], True)
    hits = np.cumsum(positive[order])[last_of_tie]
    seen = np.flatnonzero(last_of_tie) + 1
    return float(np.sum(np.diff(hits, prepend=0) * hits / seen) / hits[-1])


def mean_average_precision(scores: Floats, targets: NDArray[np.int8]) -> float:
    """Mean over the classes of [N, C] that have a positive; unknown targets (-1) are left out of their class.

    Zero if no class has a positive.
    """
    known = targets >= 0
    values = [
        average_precision(scores[known[:, c], c], targets[known[:, c], c] == 1)
        for c in range(targets.shape[1])
        if (targets[:, c] == 1).any()
    ]
    return float(np.mean(values)) if values else 0.0


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
        value = mean_average_precision(scores, targets)
        table.append({**asdict(weights), "mAP": value})
        if best is None or value > best[1]:
            best = weights, value
    if best is None:
        raise ValueError("the grid is empty")
    return Selection(*best, table)
