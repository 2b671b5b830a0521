import math

import numpy as np
import pytest
import torch

from t2ipal.captions import generation
from t2ipal.captions.generation import nucleus_sample
from t2ipal.errors import UserError


def _slow(logits: list[float], noise: list[float], temperature: float, top_p: float) -> int:
    """Gumbel-max over the nucleus in float64, token by token."""
    weights = [math.exp(value / temperature) for value in logits]
    probabilities = [weight / sum(weights) for weight in weights]
    order = sorted(range(len(logits)), key=lambda token: -probabilities[token])
    best, best_score, mass = -1, -math.inf, 0.0
    for token in order:
        if mass >= top_p:
            break
        mass += probabilities[token]
        score = logits[token] / temperature - math.log(-math.log(noise[token]))
        if score > best_score:
            best, best_score = token, score
    return best


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9), (2.0, 0.5), (0.2, 0.95), (1.0, 1e-6)])
@pytest.mark.parametrize("candidates", [3, 1024])
def test_tokens_are_those_of_the_slow_formula(
    temperature: float, top_p: float, candidates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "CANDIDATES", candidates)
    rows, vocabulary = 64, 50
    logits = torch.from_numpy(np.random.default_rng(0).normal(0, 2, (rows, vocabulary)).astype(np.float32))
    noise = [torch.rand(vocabulary, generator=torch.Generator().manual_seed(seed)).tolist() for seed in range(rows)]
    expected = [_slow(logits[row].tolist(), noise[row], temperature, top_p) for row in range(rows)]
    generators = [torch.Generator().manual_seed(seed) for seed in range(rows)]
    assert nucleus_sample(logits, generators, temperature, top_p).tolist() == expected


def test_frequencies_are_the_probabilities_of_the_nucleus() -> None:
    logits = torch.tensor([[math.log(0.5), math.log(0.3), math.log(0.15), math.log(0.05)]])
    draws = 4000
    generators = [torch.Generator().manual_seed(seed) for seed in range(draws)]
    tokens = nucleus_sample(logits.repeat(draws, 1), generators, 1.0, 0.9)
    shares = torch.bincount(tokens, minlength=4) / draws
    assert shares.tolist() == pytest.approx([0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0.0], abs=0.025)


def test_temperature_zero_takes_the_likeliest_token() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 1.0, 0.0]])
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    assert nucleus_sample(logits, generators, 0.0, 1.0).tolist() == [1, 0]


def test_a_row_does_not_depend_on_the_others() -> None:
    logits = torch.from_numpy(np.random.default_rng(1).normal(0, 1, (8, 200)).astype(np.float32))

    def drawn(rows: list[int]) -> list[int]:
        generators = [torch.Generator().manual_seed(row) for row in rows]
        steps = [nucleus_sample(logits[rows], generators, 1.0, 0.95) for _ in range(5)]
        return torch.stack(steps, 1).tolist()

    together = drawn(list(range(8)))
    assert [drawn([row])[0] for row in range(8)] == together
    assert drawn([5, 2]) == [together[5], together[2]]


def test_logits_that_are_no_numbers_are_told() -> None:
    with pytest.raises(UserError, match=r"NaN.*captions\.llm\.dtype"):
        nucleus_sample(torch.tensor([[0.0, math.nan]]), [torch.Generator()], 1.0, 1.0)


def test_tokens_ruled_out_by_the_model_are_never_drawn() -> None:
    logits = torch.tensor([[0.0, -math.inf, 0.0, -math.inf]]).repeat(200, 1)
    tokens = nucleus_sample(logits, [torch.Generator().manual_seed(seed) for seed in range(200)], 1.0, 1.0)
    assert set(tokens.tolist()) == {0, 2}
