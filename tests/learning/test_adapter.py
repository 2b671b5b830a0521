from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from t2ipal.config import AdapterSettings, TrainingSettings
from t2ipal.learning.adapter import centres, choose_keys, initial_adapters, initial_prototypes, tune
from t2ipal.learning.data import Samples

CPU = torch.device("cpu")
LABELS = ["a", "b", "c"]


@pytest.fixture
def samples(tiny: SimpleNamespace) -> Samples:
    return Samples.of(tiny.separable(40, 3), LABELS, CPU)


@pytest.fixture
def embeddings() -> torch.Tensor:
    return normalize(torch.randn(3, 16, generator=torch.Generator().manual_seed(3)), dim=-1)


def slow_mean_prototype(samples: Samples, label: int, embedding: np.ndarray, tau_s: float) -> np.ndarray:
    total = np.zeros(16)
    for row in range(len(samples)):
        if samples.targets[row, label] == 1:
            local = samples.local[row, : samples.length[row]].astype(np.float64)
            weights = np.exp(tau_s * local @ embedding)
            feature = (weights / weights.sum()) @ local
            total += feature / np.linalg.norm(feature)
    return total / np.linalg.norm(total)


@pytest.mark.parametrize("batch", [7, 100])
def test_single_prototypes_are_the_mean_local_feature_of_the_class(
    samples: Samples, embeddings: torch.Tensor, batch: int
) -> None:
    prototypes = initial_prototypes(samples, embeddings, 1, 10.0, batch, seed=0)
    for label in range(3):
        expected = slow_mean_prototype(samples, label, embeddings[label].double().numpy(), 10.0)
        assert np.allclose(prototypes[label, 0].numpy(), expected, atol=1e-5)


def test_several_prototypes_find_the_groups_of_a_class() -> None:
    rng = np.random.default_rng(0)
    directions = np.eye(4)[:3]
    points = np.repeat(directions, 20, axis=0) + 0.05 * rng.normal(size=(60, 4))
    found = centres(torch.from_numpy(points).float(), 3, random_state=0)
    cosines = found.numpy() @ directions.T
    assert sorted(cosines.argmax(1)) == [0, 1, 2]
    assert cosines.max(1).min() > 0.99
    assert torch.allclose(found.norm(dim=-1), torch.ones(3))


def test_fewer_features_than_prototypes_are_repeated() -> None:
    features = torch.eye(2)
    assert torch.equal(centres(features, 5, 0), features[[0, 1, 0, 1, 0]])


def test_class_that_no_sample_carries_starts_from_its_embedding(samples: Samples, embeddings: torch.Tensor) -> None:
    without = samples.select(np.flatnonzero(samples.targets[:, 1] != 1))
    prototypes = initial_prototypes(without, embeddings, 2, 10.0, 16, seed=0)
    assert torch.allclose(prototypes[1], embeddings[1].expand(2, -1))


def test_keys_are_balanced_over_classes_of_unequal_frequency() -> None:
    targets = np.zeros((1000, 3), dtype=np.int8)
    targets[:, 0] = 1
    targets[:50, 1] = 1
    targets[:4, 2] = 1
    chosen = choose_keys(targets, 10, seed=0)
    assert targets[chosen].sum(0).tolist() == [10, 10, 4]
    assert len(set(chosen)) == len(chosen)
    assert not np.array_equal(chosen, choose_keys(targets, 10, seed=1))


def test_unknown_labels_give_neither_keys_nor_values(samples: Samples, embeddings: torch.Tensor) -> None:
    samples.all_targets[:, 2] = -1
    adapter = initial_adapters(samples, embeddings, 10.0, AdapterSettings(keys_per_class=5), 16, seed=0)[0]
    assert adapter.values.sum(0).tolist()[2] == 0
    assert adapter.values.min() == 0


def test_keys_are_the_global_features_of_samples_with_their_labels(samples: Samples, embeddings: torch.Tensor) -> None:
    adapter = initial_adapters(samples, embeddings, 10.0, AdapterSettings(keys_per_class=5), 16, seed=0)[0]
    for key, value in zip(adapter.keys, adapter.values, strict=True):
        row = int(np.abs(samples.global_ - key.numpy()).sum(1).argmin())
        assert np.allclose(samples.global_[row], key.numpy(), atol=1e-6)
        assert samples.targets[row].tolist() == value.tolist()


def test_tuning_lowers_the_loss_and_leaves_values_and_start_alone(samples: Samples, embeddings: torch.Tensor) -> None:
    settings = AdapterSettings(keys_per_class=5, betas=(5.5, 1.0), learning_rate=0.02, epochs=8)
    start = initial_adapters(samples, embeddings, 10.0, settings, 16, seed=0)
    before = [(adapter.prototypes.clone(), adapter.keys.clone()) for adapter in start]
    tuned, history = tune(start, samples, embeddings, 4.0, 10.0, settings, TrainingSettings(batch_size=16), seed=0)
    assert [adapter.beta for adapter in tuned] == [1.0, 5.5]
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]
    for new, old, (prototypes, keys) in zip(tuned, start, before, strict=True):
        assert torch.equal(old.prototypes, prototypes) and torch.equal(old.keys, keys)
        assert torch.equal(new.values, old.values)
        assert not torch.allclose(new.prototypes, prototypes) and not torch.allclose(new.keys, keys)
        assert torch.allclose(new.keys.norm(dim=-1), torch.ones(len(keys)))


def test_betas_learned_side_by_side_equal_each_learned_alone(samples: Samples, embeddings: torch.Tensor) -> None:
    def learned(betas: tuple[float, ...]) -> dict[float, torch.Tensor]:
        settings = AdapterSettings(keys_per_class=5, betas=betas, learning_rate=0.02, epochs=2)
        start = initial_adapters(samples, embeddings, 10.0, settings, 16, seed=0)
        tuned, _ = tune(start, samples, embeddings, 4.0, 10.0, settings, TrainingSettings(batch_size=16), seed=0)
        return {adapter.beta: adapter.keys for adapter in tuned}

    together = learned((1.0, 5.5))
    assert torch.allclose(together[5.5], learned((5.5,))[5.5], atol=1e-6)
    assert not torch.allclose(together[5.5], together[1.0], atol=1e-3)


def test_no_epochs_keep_the_start(samples: Samples, embeddings: torch.Tensor) -> None:
    settings = AdapterSettings(keys_per_class=5, epochs=0)
    start = initial_adapters(samples, embeddings, 10.0, settings, 16, seed=0)
    tuned, history = tune(start, samples, embeddings, 4.0, 10.0, settings, TrainingSettings(), seed=0)
    assert history == []
    assert torch.allclose(tuned[0].prototypes, start[0].prototypes, atol=1e-6)
