from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from t2ipal.config import AdapterSettings, PromptSettings, ScoreSettings, TrainingSettings
from t2ipal.evaluation.metrics import mean_average_precision
from t2ipal.learning.data import Samples, generator, split
from t2ipal.learning.heads import Head
from t2ipal.learning.prompts import PromptLearner, TextTower
from t2ipal.learning.training import Plan, Trained, learn

NAMES = ("dog", "cat", "dining table", "bus")
PROMPTS = PromptSettings(length=4)
TRAINING = TrainingSettings(epochs=6, batch_size=32, learning_rate=0.05, warmup_learning_rate=0.005, held_out=0.3)
ADAPTER = AdapterSettings(
    keys_per_class=8, epochs=3, learning_rate=0.01, betas=(1.0, 5.5), alphas=(0.0, 1.0), local_weights=(0.0, 1.0)
)
PROMPTS_ALONE = Plan(0, ScoreSettings(), TRAINING, None)
JOINT = replace(PROMPTS_ALONE, adapter=ADAPTER)


@pytest.fixture
def learner_of(tiny: SimpleNamespace, clip: torch.nn.Module) -> Callable[[np.random.Generator], PromptLearner]:
    return lambda rng: PromptLearner(TextTower.of(clip), tiny.tokenize, NAMES, PROMPTS, rng)


@pytest.fixture
def samples(tiny: SimpleNamespace) -> Samples:
    return Samples.of(tiny.separable(160, len(NAMES)), NAMES, torch.device("cpu"))


def held_out_map(head: Head, samples: Samples, plan: Plan) -> float:
    _, held_out = split(samples, plan.training.held_out, plan.seed)
    rows = held_out.rows
    scores = head.scores(held_out.global_[rows], held_out.local[rows], held_out.length[rows])
    return mean_average_precision(scores.double().numpy(), held_out.targets)


def untrained(learner: PromptLearner) -> Head:
    with torch.no_grad():
        return Head(NAMES, NAMES, *learner(), 4.0, 40.0)


def tensors(trained: Trained) -> dict[str, torch.Tensor]:
    adapter = trained.head.adapter
    found = {"G": trained.head.global_embeddings, "L": trained.head.local_embeddings, **trained.contexts}
    return found if adapter is None else {**found, "P": adapter.prototypes, "K": adapter.keys, "Y": adapter.values}


@pytest.mark.parametrize("plan", [PROMPTS_ALONE, JOINT], ids=["prompts", "joint"])
def test_learning_raises_the_held_out_map(learner_of: Any, samples: Samples, plan: Plan) -> None:
    trained = learn(NAMES, NAMES, samples, learner_of, plan)
    before = held_out_map(untrained(learner_of(generator(plan.seed, "contexts"))), samples, plan)
    after = held_out_map(trained.head, samples, plan)
    assert after > before + 0.1
    assert trained.head.tau_s == plan.scores.tau_s_test
    assert trained.selection is not None
    assert after == pytest.approx(trained.selection.held_out_map, abs=1e-3)
    losses = [record["loss"] for record in trained.history if record["part"] == "prompts"]
    assert len(losses) == TRAINING.epochs
    assert losses[-1] < losses[0]


def test_joint_head_is_no_worse_than_prompts_on_the_data_that_chose_it(learner_of: Any, samples: Samples) -> None:
    alone, joint = (learn(NAMES, NAMES, samples, learner_of, plan) for plan in (PROMPTS_ALONE, JOINT))
    assert torch.equal(alone.head.global_embeddings, joint.head.global_embeddings)
    assert alone.selection is not None and joint.selection is not None
    assert joint.selection.held_out_map >= alone.selection.held_out_map
    assert joint.head.adapter is not None
    assert len(joint.selection.table) == 2 * 2 * 2
    assert (alone.head.w_l, alone.head.alpha, alone.head.adapter) == (1.0, 0.0, None)


def test_equal_seeds_give_equal_bits_and_others_do_not(learner_of: Any, samples: Samples) -> None:
    plan = replace(JOINT, training=TRAINING.model_copy(update={"epochs": 2}))
    first, same, other = (learn(NAMES, NAMES, samples, learner_of, replace(plan, seed=seed)) for seed in (0, 0, 1))
    for name, tensor in tensors(first).items():
        assert torch.equal(tensor, tensors(same)[name]), name
    assert first.history == same.history
    assert first.selection == same.selection
    assert not torch.equal(first.contexts["context_global"], other.contexts["context_global"])


def test_held_out_samples_change_nothing_but_the_selection(learner_of: Any, samples: Samples) -> None:
    one_beta = ADAPTER.model_copy(update={"betas": (5.5,)})
    plan = replace(JOINT, training=TRAINING.model_copy(update={"epochs": 2}), adapter=one_beta)
    _, held_out = split(samples, TRAINING.held_out, plan.seed)
    before = learn(NAMES, NAMES, samples, learner_of, plan)
    # Shift the features among the held-out samples: their targets, and so the split, stay as they are.
    changed = {"global_": samples.global_.copy(), "local": samples.local.copy(), "length": samples.length.copy()}
    for values in changed.values():
        values[held_out.rows] = np.roll(values[held_out.rows], 1, axis=0)
    after = learn(NAMES, NAMES, replace(samples, **changed), learner_of, plan)
    for name, tensor in tensors(before).items():
        assert torch.equal(tensor, tensors(after)[name]), name
    assert {"context_global", "P", "K", "Y"} <= tensors(before).keys()
    assert before.selection != after.selection


def test_text_tower_is_left_as_it_was(learner_of: Any, samples: Samples, clip: torch.nn.Module) -> None:
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    learn(NAMES, NAMES, samples, learner_of, replace(JOINT, training=TRAINING.model_copy(update={"epochs": 1})))
    assert all(torch.equal(value, before[name]) for name, value in clip.state_dict().items())
    assert all(parameter.grad is None for parameter in clip.parameters())
