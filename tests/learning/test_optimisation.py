from __future__ import annotations

import numpy as np
import pytest
import torch

from t2ipal.learning.data import Batch
from t2ipal.learning.optimisation import deterministic, run_epoch, step_size


def test_one_warm_up_epoch_then_a_cosine_towards_zero() -> None:
    rates = [step_size(epoch, 20, peak=1.0, warmup=0.01) for epoch in range(21)]
    assert rates[0] == 0.01
    assert rates[1] == 1.0
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[19] > 0
    assert rates[20] == pytest.approx(0, abs=1e-12)
    assert rates[1 + 5] == pytest.approx((1 + np.cos(np.pi * 5 / 19)) / 2)


def test_without_warm_up_the_first_epoch_has_the_peak() -> None:
    assert [step_size(epoch, 2, peak=4.0) for epoch in range(2)] == pytest.approx([4.0, 2.0])


def test_single_epoch_is_the_warm_up_epoch() -> None:
    assert step_size(0, 1, peak=1.0, warmup=0.5) == 0.5


def batch_of(values: list[float]) -> Batch:
    column = torch.tensor(values)[:, None]
    return Batch(column, column[:, None], torch.ones(len(values)), column)


def test_epoch_steps_once_per_batch_and_weighs_the_loss_by_samples() -> None:
    weight = torch.nn.Parameter(torch.tensor(1.0))
    optimizer = torch.optim.SGD([weight], lr=123.0)
    batches = [batch_of([1.0, 3.0]), batch_of([6.0])]
    loss = run_epoch(batches, lambda batch: weight * batch.global_.mean(), optimizer, learning_rate=0.1)
    # First step: loss 1 * 2, gradient 2, weight 0.8; second: loss 0.8 * 6, gradient 6, weight 0.2.
    assert loss == pytest.approx((2 * 2.0 + 4.8) / 3)
    assert weight.item() == pytest.approx(0.2)


def test_determinism_is_put_back_as_it_was() -> None:
    before = torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match="inside"), deterministic():
        assert torch.are_deterministic_algorithms_enabled()
        raise RuntimeError("inside")
    assert torch.are_deterministic_algorithms_enabled() == before
