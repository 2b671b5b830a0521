import warnings

import numpy as np
import pytest

from t2ipal.evaluation import metrics

sklearn_metrics = pytest.importorskip("sklearn.metrics")


Arrays = tuple[np.ndarray, np.ndarray]


def _random(seed: int, samples: int, classes: int, levels: int | None, prevalence: float) -> Arrays:
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((samples, classes))
    if levels:
        scores = np.floor(scores * levels) / levels
    targets = (rng.random((samples, classes)) < prevalence).astype(np.int8)
    return scores, targets


def _sklearn_ap(scores: np.ndarray, targets: np.ndarray) -> float:
    return float(sklearn_metrics.average_precision_score(targets, scores))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("levels", [None, 1, 2, 10])
@pytest.mark.parametrize("prevalence", [0.02, 0.3, 1.0])
def test_average_precision_equals_scikit_learn(seed: int, levels: int | None, prevalence: float) -> None:
    scores, targets = _random(seed, 211, 4, levels, prevalence)
    for value, column in zip(metrics.average_precision_per_class(scores, targets), range(4), strict=True):
        if targets[:, column].any():
            assert value == pytest.approx(_sklearn_ap(scores[:, column], targets[:, column]), abs=1e-9)
        else:
            assert value is None


@pytest.mark.parametrize(
    ("scores", "targets"),
    [
        ([0.5] * 6, [1, 0, 0, 1, 0, 0]),
        ([0.5] * 3, [1, 1, 1]),
        ([1.0], [1]),
        ([0.1, 0.9], [1, 0]),
        ([-1e300, 1e300, 0.0, -0.0], [1, 0, 1, 0]),
        ([3, 3, 2, 2, 1, 1], [0, 1, 1, 0, 0, 1]),
        ([1e-320, 0.0, 1e-320], [1, 0, 0]),
    ],
)
def test_average_precision_equals_scikit_learn_on_ties_and_extremes(scores: list[float], targets: list[int]) -> None:
    array, labels = np.array(scores, dtype=float), np.array(targets, dtype=np.int8)
    assert metrics.average_precision(array, labels) == pytest.approx(_sklearn_ap(array, labels), abs=1e-9)


def test_mean_average_precision_equals_scikit_learns_macro_mean() -> None:
    scores, targets = _random(1, 300, 20, 20, 0.2)
    expected = sklearn_metrics.average_precision_score(targets, scores, average="macro")
    assert metrics.mean_average_precision(scores.astype(np.float32), targets) == pytest.approx(expected, abs=1e-6)


def test_the_order_of_samples_does_not_matter_even_with_ties() -> None:
    scores, targets = _random(2, 100, 3, 2, 0.3)
    order = np.random.default_rng(0).permutation(100)
    for metric in (metrics.average_precision, metrics.voc11_average_precision):
        before = metrics.mean_average_precision(scores, targets, metric)
        assert metrics.mean_average_precision(scores[order], targets[order], metric) == pytest.approx(before, abs=1e-12)


def test_unknown_targets_are_left_out() -> None:
    scores, targets = _random(3, 200, 5, None, 0.3)
    masked = np.where(np.random.default_rng(1).random(targets.shape) < 0.4, -1, targets).astype(np.int8)
    for column, value in enumerate(metrics.average_precision_per_class(scores, masked)):
        known = masked[:, column] >= 0
        assert value == pytest.approx(_sklearn_ap(scores[known, column], masked[known, column]), abs=1e-9)


def test_classes_without_positives_are_masked_and_left_out_of_the_mean() -> None:
    scores = np.array([[0.9, 0.1, 0.3], [0.2, 0.8, 0.4]])
    targets = np.array([[1, 0, -1], [0, 0, -1]], dtype=np.int8)
    assert metrics.average_precision_per_class(scores, targets) == [1.0, None, None]
    assert metrics.mean_average_precision(scores, targets) == 1.0


def test_no_positive_at_all_is_an_error_and_not_a_nan() -> None:
    with pytest.raises(ValueError, match="no class has a positive"):
        metrics.mean_average_precision(np.ones((3, 2)), np.zeros((3, 2), dtype=np.int8))


@pytest.mark.parametrize(
    ("scores", "targets", "reason"),
    [
        (np.ones((2, 2)), np.ones((2, 3), dtype=np.int8), "shape"),
        (np.array([[np.nan]]), np.array([[1]]), "finite"),
        (np.array([[np.inf]]), np.array([[1]]), "finite"),
        (np.array([[1.0]]), np.array([[2]]), "targets"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(scores: np.ndarray, targets: np.ndarray, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        metrics.mean_average_precision(scores, targets)


def test_eleven_point_precision_follows_its_definition() -> None:
    scores, targets = _random(4, 150, 6, 8, 0.2)
    values = metrics.average_precision_per_class(scores, targets, metrics.voc11_average_precision)
    for column, value in enumerate(values):
        precision, recall, _ = sklearn_metrics.precision_recall_curve(targets[:, column], scores[:, column])
        precision, recall = precision[:-1], recall[:-1]  # without scikit-learn's artificial end point
        best = [max(precision[recall >= level / 10 - 1e-9]) for level in range(11)]
        assert value == pytest.approx(np.mean(best), abs=1e-9)


def test_eleven_point_precision_by_hand_where_recalls_hit_the_levels() -> None:
    # Ten positives: three are found first (recall 0.3 exactly), then one negative, then the others.
    targets = np.array([1, 1, 1, 0] + [1] * 7, dtype=np.int8)
    scores = -np.arange(11, dtype=float)
    assert metrics.voc11_average_precision(scores, targets) == pytest.approx((4 * 1 + 7 * 10 / 11) / 11)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_top_k_takes_the_highest_and_breaks_ties_by_class_order(k: int) -> None:
    scores = np.array([[0.1, 0.5, 0.5, 0.5], [1.0, 1.0, 1.0, 1.0], [0.0, 0.3, 0.1, 0.2]])
    chosen = metrics.top_k_predictions(scores, np.zeros((3, 4), dtype=np.int8), k)
    first = {1: ([1], [0], [1]), 3: ([1, 2, 3], [0, 1, 2], [1, 2, 3]), 7: ([0, 1, 2, 3],) * 3}[k]
    assert [list(np.flatnonzero(row)) for row in chosen] == [list(row) for row in first]


def test_unknown_classes_are_never_predicted() -> None:
    scores, targets = np.array([[0.9, 0.8, 0.1]]), np.array([[-1, 1, 0]], dtype=np.int8)
    assert metrics.top_k_predictions(scores, targets, 1).tolist() == [[False, True, False]]
    assert metrics.top_k_predictions(scores, targets, 3).tolist() == [[False, True, True]]
    assert metrics.threshold_predictions(scores, targets, 0.5).tolist() == [[False, True, False]]


def test_thresholds_may_differ_per_class_and_are_reached_by_equality() -> None:
    scores, targets = np.array([[0.5, 0.5], [0.4, 0.6]]), np.zeros((2, 2), dtype=np.int8)
    predictions = metrics.threshold_predictions(scores, targets, np.array([0.5, 0.6]))
    assert predictions.tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rule", ["top", "threshold"])
def test_precision_recall_and_f1_equal_scikit_learn(seed: int, rule: str) -> None:
    scores, targets = _random(seed, 90, 6, 4, 0.25)
    targets[:, 5] = 0
    predictions = (
        metrics.top_k_predictions(scores, targets, 3)
        if rule == "top"
        else metrics.threshold_predictions(scores, targets, 1.4)
    )
    result = metrics.classification(predictions, targets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by_class = sklearn_metrics.precision_recall_fscore_support(targets, predictions, zero_division=0)
        micro = {"average": "micro", "zero_division": 0}
        overall = sklearn_metrics.precision_recall_fscore_support(targets, predictions, **micro)
    for ours, theirs in zip((result.precision, result.recall, result.f1), by_class, strict=False):
        assert ours[:5] == pytest.approx(list(theirs[:5]), abs=1e-9)
        assert ours[5] is None
    mean_precision, mean_recall = by_class[0][:5].mean(), by_class[1][:5].mean()
    expected = {
        "CP": mean_precision,
        "CR": mean_recall,
        "CF1": 2 * mean_precision * mean_recall / (mean_precision + mean_recall),
        **dict(zip(("OP", "OR", "OF1"), overall[:3], strict=True)),
    }
    assert {name: getattr(result, name) for name in expected} == pytest.approx(expected, abs=1e-9)


def test_unknown_entries_count_in_no_precision_and_no_recall() -> None:
    targets = np.array([[1, -1], [0, 1], [-1, 1]], dtype=np.int8)
    predictions = np.array([[True, True], [True, True], [True, False]])
    result = metrics.classification(predictions, targets)
    assert (result.precision, result.recall) == ([0.5, 1.0], [1.0, 0.5])
    overall = [result.OP, result.OR]
    assert overall == pytest.approx([2 / 3, 2 / 3])


def test_nothing_predicted_gives_zeros_and_not_nan() -> None:
    result = metrics.classification(np.zeros((2, 2), dtype=bool), np.array([[1, 0], [0, 1]]))
    assert (result.CP, result.CR, result.CF1, result.OP, result.OR, result.OF1) == (0,) * 6


def test_classification_without_positives_is_an_error() -> None:
    with pytest.raises(ValueError, match="no class has a positive"):
        metrics.classification(np.ones((2, 2), dtype=bool), np.zeros((2, 2), dtype=np.int8))
