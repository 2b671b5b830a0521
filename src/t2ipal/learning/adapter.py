"""Prototypes and cache keys: initialisation from training features, and tuning with the prompts frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from t2ipal.config import AdapterSettings, TrainingSettings
from t2ipal.learning.data import Batch, Samples, generator
from t2ipal.learning.heads import Adapter, class_wise_local_features, heatmap
from t2ipal.learning.losses import ranking_loss
from t2ipal.learning.optimisation import run_epoch, step_size
from t2ipal.progress import Progress


def carriers(samples: Samples, label: int, embedding: Tensor, tau_s: float, batch: int) -> Tensor:
    """Class-wise local features [n, D] of the samples that carry class ``label``, embedded as [D]."""
    positions = np.flatnonzero(samples.targets[:, label] == 1)
    found = [torch.empty(0, len(embedding), device=embedding.device)]
    for piece in samples.select(positions).batches(batch):
        heat = heatmap(piece.local, embedding[None], tau_s, piece.length)
        found.append(class_wise_local_features(heat, piece.local)[:, 0])
    return torch.cat(found)


def centres(features: Tensor, count: int, random_state: int) -> Tensor:
    """``count`` unit vectors [count, D] that stand for features [n, D], n >= 1: their mean, or k-means centres.

    With fewer features than centres, the features are repeated in turn.
    """
    if count == 1:
        return normalize(features.mean(dim=0, keepdim=True), dim=-1)
    if len(features) <= count:
        return features[torch.arange(count, device=features.device) % len(features)]
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    # One thread: k-means adds up its threads' sums in whatever order they finish.
    with threadpool_limits(1):
        means = KMeans(count, n_init=4, random_state=random_state).fit(features.cpu().double().numpy())
    return normalize(torch.as_tensor(means.cluster_centers_).to(features), dim=-1)


@torch.no_grad()
def initial_prototypes(
    samples: Samples, local_embeddings: Tensor, count: int, tau_s: float, batch: int, seed: int
) -> Tensor:
    """Prototypes [C, K, D]: centres of the class-wise local features of the samples which carry each class.

    A class that no sample carries starts from its local class embedding.
    """
    rng = generator(seed, "prototypes")
    prototypes = []
    for label, embedding in enumerate(local_embeddings):
        state = int(rng.integers(2**31))
        features = carriers(samples, label, embedding, tau_s, batch)
        prototypes.append(centres(features if len(features) else embedding[None], count, state))
    return torch.stack(prototypes)


def choose_keys(targets: NDArray[np.int8], per_class: int, seed: int) -> NDArray[np.intp]:
    """Sorted positions of the samples that become cache keys, balanced over the classes of targets [N, C].

    The classes choose in turn, the rarest first: each adds random samples that carry it until ``per_class`` are
    in the cache (samples that other classes brought count) or it has no more.
    """
    rng = generator(seed, "keys")
    chosen = np.zeros(len(targets), dtype=bool)
    positive = targets == 1
    for label in np.argsort(positive.sum(axis=0), kind="stable"):
        order = rng.permutation(len(targets))
        free = order[positive[order, label] & ~chosen[order]]
        missing = per_class - int(positive[chosen, label].sum())
        chosen[free[: max(0, missing)]] = True
    return np.flatnonzero(chosen)


def initial_adapters(
    samples: Samples, local_embeddings: Tensor, tau_s: float, settings: AdapterSettings, batch: int, seed: int
) -> list[Adapter]:
    """One adapter for each beta of the search, all starting from the same prototypes, keys and values."""
    prototypes = initial_prototypes(samples, local_embeddings, settings.prototypes, tau_s, batch, seed)
    cached = samples.select(choose_keys(samples.targets, settings.keys_per_class, seed))
    keys = normalize(cached.globals(), dim=-1)
    values = torch.as_tensor((cached.targets == 1).astype(np.float32), device=keys.device)
    return [
        Adapter(prototypes.clone(), keys.clone(), values, beta, settings.pooling)
        for beta in sorted(set(settings.betas))
    ]


def tune(
    adapters: Sequence[Adapter],
    samples: Samples,
    local_embeddings: Tensor,
    tau: float,
    tau_s: float,
    settings: AdapterSettings,
    training: TrainingSettings,
    seed: int,
) -> tuple[list[Adapter], list[dict[str, Any]]]:
    """Tune prototypes and keys with AdamW and the ranking loss on the adapter branch; the values stay.

    The adapters of all betas learn side by side, each from its own loss, because the class-wise local features of
    a batch are the same for all. Weight decay is off: only directions matter in a cosine. As in Tip-Adapter-F, a
    sample that is itself a key meets that key while it learns; the held-out samples never are keys.

    Returns:
        The tuned adapters with unit prototypes and keys, and one record of history per epoch, whose loss is the
        mean over the adapters.
    """
    learners = [
        Adapter(
            adapter.prototypes.clone().requires_grad_(),
            adapter.keys.clone().requires_grad_(),
            adapter.values,
            adapter.beta,
            adapter.pooling,
        )
        for adapter in adapters
    ]
    parameters = [tensor for learner in learners for tensor in (learner.prototypes, learner.keys)]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.0)

    def loss_of(batch: Batch) -> Tensor:
        heat = heatmap(batch.local, local_embeddings, tau_s, batch.length)
        features = class_wise_local_features(heat, batch.local)
        losses = [
            ranking_loss(learner.scores(batch.global_, features, tau), batch.targets, training.margin)
            for learner in learners
        ]
        # The learners share no parameter, so the gradient of the sum is each one's own.
        return torch.stack(losses).sum()

    history = []
    with Progress("prototypes and keys", settings.epochs, "epochs") as progress:
        for epoch in range(settings.epochs):
            order = generator(seed, "adapter order", epoch).permutation(len(samples))
            rate = step_size(epoch, settings.epochs, settings.learning_rate)
            loss = run_epoch(samples.batches(training.batch_size, order), loss_of, optimizer, rate)
            history.append({"part": "adapter", "epoch": epoch + 1, "loss": loss / len(learners), "learning_rate": rate})
            progress.advance(1)
    tuned = [
        Adapter(
            normalize(learner.prototypes.detach(), dim=-1),
            normalize(learner.keys.detach(), dim=-1),
            learner.values,
            learner.beta,
            learner.pooling,
        )
        for learner in learners
    ]
    return tuned, history
