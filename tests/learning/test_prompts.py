from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from t2ipal.config import PromptSettings
from t2ipal.errors import UserError
from t2ipal.learning.prompts import PromptLearner, TextTower

NAMES = ["dog", "dining table", "potted plant", "bus"]
WORDS = ["a", "photo", "of", "the", "big"]


@pytest.fixture
def a_learner(tiny: SimpleNamespace) -> Callable[..., PromptLearner]:
    def make(model: torch.nn.Module, names: list[str] = NAMES, seed: int = 0, **settings: Any) -> PromptLearner:
        chosen = PromptSettings(**{"length": len(WORDS), **settings})
        return PromptLearner(TextTower.of(model), tiny.tokenize, names, chosen, np.random.default_rng(seed))

    return make


def word_embeddings(tiny: SimpleNamespace, model: Any, words: list[str]) -> torch.Tensor:
    tower = getattr(model, "text", model)
    return tower.token_embedding(tiny.tokenize([" ".join(words)]))[0, 1 : len(words) + 1]


@pytest.mark.parametrize(
    ("custom", "text"),
    [
        (False, {}),
        (True, {}),
        (False, {"pool_type": "eos", "eos_id": 18}),
        (True, {"proj_bias": True}),
        (True, {"qk_norm": True}),
    ],
)
def test_contexts_of_real_words_give_the_embedding_of_the_sentence(
    tiny: SimpleNamespace, a_learner: Callable[..., PromptLearner], custom: bool, text: dict[str, Any]
) -> None:
    model = tiny.clip(custom, **text)
    learner = a_learner(model)
    other = WORDS[::-1]
    with torch.no_grad():
        learner.context_global.copy_(word_embeddings(tiny, model, WORDS))
        learner.context_local.copy_(word_embeddings(tiny, model, other))
    for embeddings, words in zip(learner(), (WORDS, other), strict=True):
        sentences = tiny.tokenize([" ".join([*words, name]) for name in NAMES])
        expected = normalize(model.encode_text(sentences), dim=-1)
        assert torch.allclose(embeddings, expected, atol=1e-5)
        assert (expected[0] - expected[1]).abs().max() > 1e-2


def test_class_specific_contexts_belong_to_their_classes(
    tiny: SimpleNamespace, a_learner: Callable[..., PromptLearner], clip: torch.nn.Module
) -> None:
    learner = a_learner(clip, class_specific=True)
    assert learner.context_global.shape == (len(NAMES), len(WORDS), 32)
    with torch.no_grad():
        learner.context_global.copy_(word_embeddings(tiny, clip, WORDS).expand(len(NAMES), -1, -1))
        learner.context_global[1] = word_embeddings(tiny, clip, WORDS[::-1])
    sentences = [" ".join([*(WORDS[::-1] if row == 1 else WORDS), name]) for row, name in enumerate(NAMES)]
    expected = normalize(clip.encode_text(tiny.tokenize(sentences)), dim=-1)
    assert torch.allclose(learner()[0], expected, atol=1e-5)


def test_tower_runs_on_no_more_positions_than_the_longest_prompt_has(
    a_learner: Callable[..., PromptLearner], clip: Any
) -> None:
    seen = []
    handle = clip.transformer.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    a_learner(clip)()
    handle.remove()
    assert seen == [(2 * len(NAMES), 1 + len(WORDS) + 2 + 1, 32)]


def test_only_contexts_are_parameters_and_saved(a_learner: Callable[..., PromptLearner], clip: torch.nn.Module) -> None:
    learner = a_learner(clip)
    assert {name: tuple(value.shape) for name, value in learner.state_dict().items()} == {
        "context_global": (5, 32),
        "context_local": (5, 32),
    }
    assert [name for name, _ in learner.named_parameters()] == ["context_global", "context_local"]


def test_shared_context_moves_to_other_names(a_learner: Callable[..., PromptLearner], clip: torch.nn.Module) -> None:
    learner, other = a_learner(clip), a_learner(clip, ["sofa", "dog"], seed=1)
    other.load_state_dict(learner.state_dict())
    assert torch.allclose(other()[0][1], learner()[0][0], atol=1e-6)


def test_contexts_are_drawn_from_the_given_generator(
    a_learner: Callable[..., PromptLearner], clip: torch.nn.Module
) -> None:
    first, same, other = (a_learner(clip, seed=seed, length=16, init_std=0.5) for seed in (0, 0, 1))
    assert torch.equal(first.context_global, same.context_global)
    assert not torch.equal(first.context_global, other.context_global)
    assert not torch.equal(first.context_global, first.context_local)
    assert first.context_global.std().item() == pytest.approx(0.5, rel=0.15)


@pytest.mark.parametrize("class_specific", [False, True])
def test_gradients_of_contexts_are_exact(
    tiny: SimpleNamespace, a_learner: Callable[..., PromptLearner], class_specific: bool
) -> None:
    model = tiny.clip().double()
    learner = a_learner(model, NAMES[:2], length=2, class_specific=class_specific).double()
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.mul_(50)

    def embeddings(context_global: torch.Tensor, context_local: torch.Tensor) -> Any:
        return torch.func.functional_call(
            learner, {"context_global": context_global, "context_local": context_local}, ()
        )

    inputs = tuple(parameter.detach().clone().requires_grad_() for parameter in learner.parameters())
    assert torch.autograd.gradcheck(embeddings, inputs)


def test_half_precision_tower_keeps_contexts_in_full_precision(
    tiny: SimpleNamespace, a_learner: Callable[..., PromptLearner]
) -> None:
    learner = a_learner(tiny.clip().to(torch.bfloat16))
    global_, _ = learner()
    assert global_.dtype == learner.context_global.dtype == torch.float32
    global_.sum().backward()
    assert learner.context_global.grad is not None
    assert learner.context_global.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("custom", "text", "reason"),
    [
        (True, {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}, "causal"),
        (False, {"pool_type": "last"}, "pools by 'last'"),
        (True, {"embed_cls": True}, "class token"),
    ],
)
def test_towers_unlike_clips_are_refused(
    tiny: SimpleNamespace, custom: bool, text: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        TextTower.of(tiny.clip(custom, **text))


def test_foreign_text_encoders_are_refused() -> None:
    model = torch.nn.Module()
    model.text = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"features\.backbone.*own text transformer"):
        TextTower.of(model)


def test_tokenizer_without_start_token_is_refused(tiny: SimpleNamespace, clip: torch.nn.Module) -> None:
    def startless(texts: list[str]) -> torch.Tensor:
        return tiny.tokenize(texts).roll(-1, dims=1)

    with pytest.raises(UserError, match="start-of-text"):
        PromptLearner(TextTower.of(clip), startless, NAMES, PromptSettings(length=2), np.random.default_rng(0))


def test_too_long_prompts_are_refused_with_the_longest_that_fits(
    tiny: SimpleNamespace, a_learner: Callable[..., PromptLearner], clip: torch.nn.Module
) -> None:
    fits = tiny.context_length - 4
    assert a_learner(clip, length=fits)()[0].shape == (4, 16)
    with pytest.raises(UserError, match=f"'dining table'.*at most {fits} "):
        a_learner(clip, length=fits + 1)
    with pytest.raises(UserError, match="shorter prompt name"):
        a_learner(clip, ["big " * (tiny.context_length - 2)], length=1)
