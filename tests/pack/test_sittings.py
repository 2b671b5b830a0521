from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from t2ipal.pack.sittings import Sitting, Trainee, learning_rate_factor


class Line(Trainee):
    name, batch, learning_rate, warmup, average = "line", 8, 0.05, 2, 0.9

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        x = torch.from_numpy(rng.normal(size=(8, 3)).astype(np.float32))
        return (self.module(x)[:, 0] - x.sum(1) + 0.01 * torch.randn(8)).square().mean(), {}


def _steps(sitting: Sitting, count: int) -> None:
    for _ in range(count):
        sitting._advance()


def test_a_training_in_sittings_ends_as_one_in_one_go(tmp_path: Path) -> None:
    whole = Sitting(Line(), tmp_path / "whole", samples=240)
    assert whole.run(say=lambda _: None)
    first = Sitting(Line(), tmp_path / "parts", samples=240)
    _steps(first, 11)
    first._save()
    second = Sitting(Line(), tmp_path / "parts", samples=240)
    assert second.step == 11
    assert second.run(say=lambda _: None)
    for key, value in whole.trainee.module.state_dict().items():
        assert torch.equal(value, second.trainee.module.state_dict()[key]), key
        assert torch.equal(whole.averaged[key], second.averaged[key]), key


def test_a_sitting_ends_in_time_and_saves_its_state(tmp_path: Path) -> None:
    sitting = Sitting(Line(), tmp_path, samples=10**9)
    assert not sitting.run(seconds=0.2, say=lambda _: None)
    assert Sitting(Line(), tmp_path, samples=10**9).step == sitting.step > 0


def test_learning_rate_warms_up_stays_and_decays() -> None:
    factors = [learning_rate_factor(step, 10, 70, 100) for step in range(100)]
    assert factors[0] == 0.1 and factors[10:70] == [1.0] * 60
    assert factors[99] < 0.05 and sorted(factors[70:], reverse=True) == factors[70:]


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    sitting = Sitting(Line(), tmp_path, samples=4000)
    before = np.mean([sitting._advance()["loss"] for _ in range(10)])
    sitting.run(say=lambda _: None)
    after = np.mean([sitting.trainee.loss(np.random.default_rng(i))[0].item() for i in range(10)])
    assert after < 0.3 * before
