from __future__ import annotations

import numpy as np
import pytest

from t2ipal.learning.selection import select

TARGETS = np.array([[1], [0], [0]], dtype=np.int8)
BAD = np.array([[0.0], [1.0], [2.0]])


def test_finds_the_weights_that_rank_best() -> None:
    found = select(BAD, np.array([[1.5], [0.0], [0.0]]), {}, TARGETS, [0.0, 1.0, 2.0])
    assert (found.weights.w_l, found.weights.alpha, found.weights.beta) == (2.0, 0.0, None)
    assert found.held_out_map == 1.0
    assert [(row["w_l"], row["mAP"]) for row in found.table] == [
        (0.0, pytest.approx(1 / 3)), (1.0, pytest.approx(0.5)), (2.0, 1.0),
    ]  # fmt: skip


def test_of_equals_the_smallest_weights_win_whatever_the_order_of_the_grid() -> None:
    flat = np.zeros((3, 1))
    found = select(BAD, flat, {9.0: flat, 2.0: flat}, TARGETS, [2.0, 0.5, 1.0], [4.0, 1.0])
    assert (found.weights.w_l, found.weights.alpha, found.weights.beta) == (0.5, 1.0, 2.0)
    assert len(found.table) == 3 * 2 * 2


def test_each_beta_is_judged_by_its_own_adapter() -> None:
    good, bad = np.array([[9.0], [0.0], [0.0]]), np.zeros((3, 1))
    found = select(BAD, np.zeros((3, 1)), {1.0: bad, 5.0: good}, TARGETS, [0.0], [0.0, 0.1, 1.0])
    assert (found.weights.alpha, found.weights.beta) == (1.0, 5.0)


def test_without_a_positive_the_smallest_weights_are_kept() -> None:
    found = select(BAD, BAD, {}, np.zeros((3, 1), dtype=np.int8), [0.0, 1.0])
    assert (found.weights.w_l, found.held_out_map) == (0.0, 0.0)
