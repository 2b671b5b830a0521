from __future__ import annotations

import pytest
import torch

from t2ipal.learning.losses import ranking_loss


def slow_ranking_loss(scores: list[list[float]], targets: list[list[int]], margin: float) -> float:
    total = 0.0
    for row, target in zip(scores, targets, strict=True):
        for i in range(len(row)):
            for j in range(len(row)):
                if target[i] == 1 and target[j] == 0:
                    total += max(0.0, margin - row[i] + row[j])
    return total / len(scores)


@pytest.mark.parametrize("margin", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float64])
def test_equals_the_double_loop_over_pairs(margin: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = 2 * torch.randn(9, 7, generator=generator, dtype=torch.float64)
    targets = torch.randint(-1, 2, (9, 7), generator=generator)
    expected = slow_ranking_loss(scores.tolist(), targets.tolist(), margin)
    assert ranking_loss(scores, targets.to(dtype), margin).item() == pytest.approx(expected, rel=1e-12)
    assert expected > 0


def test_default_margin_is_one() -> None:
    assert ranking_loss(torch.tensor([[0.25, 0.5]]), torch.tensor([[1, 0]])).item() == 1.25


def test_unknown_classes_change_nothing() -> None:
    targets = torch.tensor([[1, 0, -1]])
    low, high = (ranking_loss(torch.tensor([[0.0, 0.0, extra]]), targets).item() for extra in (-50.0, 50.0))
    assert low == high == 1.0


def test_samples_without_a_pair_count_as_zero_in_the_mean() -> None:
    scores, targets = torch.zeros(2, 2), torch.tensor([[1, 0], [1, 1]])
    assert ranking_loss(scores, targets).item() == 0.5


def test_infinite_scores_of_unknown_classes_leave_no_nan() -> None:
    scores = torch.tensor([[0.0, 0.0, -torch.inf]], requires_grad=True)
    loss = ranking_loss(scores, torch.tensor([[1, 0, -1]]))
    assert loss.item() == 1.0


def test_gradient_is_exact() -> None:
    scores = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[1, 0, 0, -1, 1]] * 4)
    assert torch.autograd.gradcheck(lambda s: ranking_loss(s, targets), (scores,))


@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((3,), (3,)), ((0, 3), (0, 3))])
def test_unfitting_shapes_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ranking_loss(torch.zeros(shapes[0]), torch.zeros(shapes[1]))
