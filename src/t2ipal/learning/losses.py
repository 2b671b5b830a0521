"""Losses on scores [N, C] and targets [N, C] (1 positive, 0 negative, -1 unknown)."""

from __future__ import annotations

import torch
from torch import Tensor


def ranking_loss(scores: Tensor, targets: Tensor, margin: float = 1.0) -> Tensor:
    """Pairwise hinge ranking loss (method.md §6, as in TaI-DPT).

    For each sample the sum of ``max(0, margin - s_i + s_j)`` over all pairs of a positive class i and a negative
    class j; then the mean over the batch. Classes whose target is -1 are in no pair. A sample without a pair
    counts as zero.

    Args:
        scores: [N, C] floating point, N >= 1.
        targets: [N, C] of 1, 0 and -1, any dtype that holds them.
        margin: distance that a positive's score must keep above each negative's.

    Returns:
        A scalar.

    Raises:
        ValueError: the shapes differ, are not two-dimensional, or the batch is empty.
    """
    if scores.ndim != 2 or scores.shape != targets.shape or not len(scores):
        raise ValueError(
            f"scores and targets must be [N, C] alike, N >= 1: got {tuple(scores.shape)} and {tuple(targets.shape)}"
        )
    excess = torch.relu(margin - scores[:, :, None] + scores[:, None, :])
    pairs = (targets == 1)[:, :, None] & (targets == 0)[:, None, :]
    return torch.where(pairs, excess, 0).sum() / len(scores)
