"""Learning of one head: prompts, then prototypes and adapter with the prompts frozen, then fusion weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2ipal.config import AdapterSettings, ScoreSettings, TrainingSettings
from t2ipal.learning import adapter as adapters
from t2ipal.learning.data import Batch, Samples, generator, split
from t2ipal.learning.heads import Adapter, Head, global_scores, local_cosines, local_scores, sharpen
from t2ipal.learning.losses import ranking_loss
from t2ipal.learning.optimisation import run_epoch, step_size
from t2ipal.learning.prompts import PromptLearner
from t2ipal.learning.selection import Selection, select
from t2ipal.progress import Progress

# Both prompt branches are summed as in TaI-DPT, where a method has no search of the local weight.
UNSEARCHED_LOCAL_WEIGHT = 1.0


@dataclass(frozen=True)
class Plan:
    """All numbers that learning depends on; ``adapter`` is None for methods of prompts alone."""

    seed: int
    scores: ScoreSettings
    training: TrainingSettings
    adapter: AdapterSettings | None


@dataclass(frozen=True)
class Trained:
    """A head and how it came about."""

    head: Head
    contexts: dict[str, Tensor] = field(default_factory=dict)
    selection: Selection | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


def tune_prompts(learner: PromptLearner, samples: Samples, plan: Plan) -> list[dict[str, Any]]:
    """Tune the contexts in place by SGD; the ranking losses of the global and of the local branch are added.

    Class embeddings are computed anew at each step, since each step changes the contexts.

    Returns:
        One record per epoch.
    """
    scores, training = plan.scores, plan.training
    optimizer = torch.optim.SGD(
        learner.parameters(),
        lr=training.learning_rate,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
    )

    def loss_of(batch: Batch) -> Tensor:
        global_embeddings, local_embeddings = learner()
        similarities = local_cosines(batch.local, local_embeddings)
        heat = sharpen(similarities, scores.tau_s_train, batch.length)
        of_global = global_scores(batch.global_, global_embeddings, scores.tau)
        of_local = local_scores(heat, similarities, scores.tau)
        return ranking_loss(of_global, batch.targets, training.margin) + ranking_loss(
            of_local, batch.targets, training.margin
        )

    history = []
    with Progress("prompts", training.epochs, "epochs") as progress:
        for epoch in range(training.epochs):
            order = generator(plan.seed, "prompt order", epoch).permutation(len(samples))
            rate = step_size(epoch, training.epochs, training.learning_rate, training.warmup_learning_rate)
            loss = run_epoch(samples.batches(training.batch_size, order), loss_of, optimizer, rate)
            history.append({"part": "prompts", "epoch": epoch + 1, "loss": loss, "learning_rate": rate})
            progress.advance(1)
    return history


def learn(
    labels: tuple[str, ...],
    prompt_names: tuple[str, ...],
    samples: Samples,
    learner_of: Callable[[np.random.Generator], PromptLearner],
    plan: Plan,
) -> Trained:
    """Learn a head from ``samples`` alone.

    A share of the samples is held out. Contexts, prototypes and keys learn from the rest, and their last epoch
    is taken. Then the local weight, alpha and beta of the greatest mAP on the held-out samples are chosen. The
    learning of prototypes and keys depends on beta, so there is an adapter for each beta of the search.

    Args:
        labels: class ids, C of them, in the order of the samples' targets.
        prompt_names: the classes' names in prompts.
        samples: all training samples.
        learner_of: makes the prompt learner, its contexts drawn from the generator given.
        plan: the numbers.

    Raises:
        UserError: there are too few samples to hold some out.
    """
    training_samples, held_out = split(samples, plan.training.held_out, plan.seed)
    learner = learner_of(generator(plan.seed, "contexts"))
    history = tune_prompts(learner, training_samples, plan)
    with torch.no_grad():
        global_embeddings, local_embeddings = (embeddings.detach() for embeddings in learner())
    head = Head(labels, prompt_names, global_embeddings, local_embeddings, plan.scores.tau, plan.scores.tau_s_test)
    tuned: list[Adapter] = []
    if plan.adapter is not None:
        tuned, more = _learn_adapters(training_samples, local_embeddings, plan, plan.adapter)
        history += more
    selection = choose(head, tuned, held_out, plan)
    weights = selection.weights
    chosen = next((candidate for candidate in tuned if candidate.beta == weights.beta), None)
    contexts = {name: parameter.detach() for name, parameter in learner.named_parameters()}
    return Trained(replace(head, w_l=weights.w_l, alpha=weights.alpha, adapter=chosen), contexts, selection, history)


def _learn_adapters(
    samples: Samples, local_embeddings: Tensor, plan: Plan, settings: AdapterSettings
) -> tuple[list[Adapter], list[dict[str, Any]]]:
    scores, training = plan.scores, plan.training
    start = adapters.initial_adapters(
        samples, local_embeddings, scores.tau_s_train, settings, training.batch_size, plan.seed
    )
    return adapters.tune(
        start, samples, local_embeddings, scores.tau, scores.tau_s_train, settings, training, plan.seed
    )


def choose(head: Head, tuned: list[Adapter], held_out: Samples, plan: Plan) -> Selection:
    """Fusion weights of the greatest mAP on the held-out samples, scored as at prediction."""
    settings, size = plan.adapter, plan.training.batch_size
    local_weights = [UNSEARCHED_LOCAL_WEIGHT] if settings is None else settings.local_weights
    plain = branch_scores(head, held_out, size)
    of_adapters = {
        candidate.beta: branch_scores(replace(head, adapter=candidate), held_out, size)["adapter"]
        for candidate in tuned
    }
    alphas = () if settings is None else settings.alphas
    return select(plain["global"], plain["local"], of_adapters, held_out.targets, local_weights, alphas)


@torch.no_grad()
def branch_scores(head: Head, samples: Samples, size: int) -> dict[str, NDArray[np.float64]]:
    """Unweighted scores [N, C] of the head's branches ``global``, ``local`` and, where it has one, ``adapter``."""
    found = [head.branches(batch.global_, batch.local, batch.length) for batch in samples.batches(size)]
    scores = {
        "global": _joined(branches.global_ for branches in found),
        "local": _joined(branches.local for branches in found),
    }
    if head.adapter is not None:
        scores["adapter"] = _joined(branches.adapter for branches in found if branches.adapter is not None)
    return scores


def _joined(parts: Iterable[Tensor]) -> NDArray[np.float64]:
    return torch.cat(list(parts)).double().cpu().numpy()
