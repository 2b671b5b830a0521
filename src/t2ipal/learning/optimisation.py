"""The schedule of step sizes, one epoch of minimisation, and determinism on any device."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer

from t2ipal.learning.data import Batch


def step_size(epoch: int, epochs: int, peak: float, warmup: float | None = None) -> float:
    """Learning rate of an epoch, counted from 0: a constant warm-up epoch, then a cosine from ``peak`` to zero.

    Zero is what the epoch after the last would have, so every epoch learns (as in CoOp and TaI-DPT). Without
    ``warmup`` the cosine starts in epoch 0. A single epoch with ``warmup`` is the warm-up epoch.
    """
    if warmup is not None:
        if epoch == 0:
            return warmup
        epoch, epochs = epoch - 1, epochs - 1
    return peak * (1 + math.cos(math.pi * epoch / epochs)) / 2


def run_epoch(
    batches: Iterable[Batch], loss_of: Callable[[Batch], Tensor], optimizer: Optimizer, learning_rate: float
) -> float:
    """Take one step per batch; the mean loss over the samples, each measured before its step."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    total, samples = 0.0, 0
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += float(loss.detach()) * len(batch.targets)
        samples += len(batch.targets)
    return total / samples


@contextmanager
def deterministic() -> Iterator[None]:
    """Choose algorithms that give equal results on equal input, where torch has them; put back what was set."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
