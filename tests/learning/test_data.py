from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from t2ipal.errors import UserError
from t2ipal.learning.data import Samples, generator, split

CPU = torch.device("cpu")


def one_hot_samples(counts: list[int]) -> Samples:
    """Samples of the given numbers per class, and as many without any class as the last number says."""
    targets = np.repeat(np.eye(len(counts), dtype=np.int8), counts, axis=0)[:, :-1]
    size = len(targets)
    return Samples(np.zeros((size, 2)), np.zeros((size, 1, 2)), np.ones(size, np.int16), targets, np.arange(size), CPU)


def test_split_takes_its_share_of_every_class() -> None:
    samples = one_hot_samples([40, 20, 10, 5, 25])
    training, held_out = split(samples, 0.2, seed=0)
    assert held_out.targets.sum(0).tolist() == [8, 4, 2, 1]
    assert (held_out.targets.sum(1) == 0).sum() == 5
    assert sorted([*training.rows, *held_out.rows]) == list(range(100))


def test_split_depends_on_the_seed_and_on_nothing_else() -> None:
    samples = one_hot_samples([40, 20, 10, 5, 25])
    rows = [split(samples, 0.2, seed)[1].rows.tolist() for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_split_that_leaves_a_side_empty_is_refused(share: float) -> None:
    with pytest.raises(UserError, match=r"training\.held_out"):
        split(one_hot_samples([2, 2, 0]), share, seed=0)


def test_batches_hold_each_sample_once_in_the_order_given(tiny: SimpleNamespace) -> None:
    features = tiny.separable(10, 3)
    samples = Samples.of(features, ["a", "b", "c"], CPU).select(np.array([9, 2, 5, 7, 0]))
    order = np.array([4, 0, 3, 1, 2])
    batches = list(samples.batches(2, order))
    assert [len(batch.targets) for batch in batches] == [2, 2, 1]
    rows = [0, 9, 7, 2, 5]
    assert np.array_equal(torch.cat([b.global_ for b in batches]).numpy(), features.global_[rows])
    assert np.array_equal(torch.cat([b.local for b in batches]).numpy(), features.local[rows])
    assert torch.cat([b.length for b in batches]).tolist() == features.length[rows].tolist()
    assert np.array_equal(torch.cat([b.targets for b in batches]).numpy(), features.values[rows])
    assert np.array_equal(samples.globals().numpy(), features.global_[[9, 2, 5, 7, 0]])


def test_half_precision_features_become_float32_per_batch(tiny: SimpleNamespace) -> None:
    features = tiny.separable(4, 3)
    features.global_, features.local = features.global_.astype(np.float16), features.local.astype(np.float16)
    batch = next(Samples.of(features, ["a", "b", "c"], CPU).batches(4))
    assert batch.global_.dtype == batch.local.dtype == torch.float32


def test_features_without_samples_or_local_features_are_refused(tiny: SimpleNamespace) -> None:
    features = tiny.separable(4, 3)
    features.length[2] = 0
    with pytest.raises(UserError, match="without local features"):
        Samples.of(features, ["a", "b", "c"], CPU)
    with pytest.raises(UserError, match="no sample"):
        Samples.of(tiny.separable(0, 3), ["a", "b", "c"], CPU)


def test_each_purpose_and_number_has_random_numbers_of_its_own() -> None:
    draws = [
        float(random.random())
        for random in (
            generator(0, "split"),
            generator(1, "split"),
            generator(0, "keys"),
            generator(0, "prompt order", 0),
            generator(0, "prompt order", 1),
        )
    ]
    assert len(set(draws)) == 5
    assert float(generator(0, "split").random()) == draws[0]
