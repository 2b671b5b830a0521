import itertools
import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch import Tensor
from torchmetrics.functional import classification as torchmetrics

from t2ipal.evaluation import metrics

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


@pytest.mark.parametrize("targets", [[1, 0, 0, 0], [1, 1, 0, -1, 0, 0], [0, 1], [1] * 5 + [0] * 3, [1, 1, -1], [1]])
def test_chance_is_the_mean_over_all_orders(targets: list[int]) -> None:
    labels = np.array(targets, dtype=np.int8)
    orders = list(itertools.permutations(range(len(targets))))
    found = [metrics.average_precision(np.array(order, dtype=float), labels) for order in orders]
    assert metrics.chance_average_precision(np.zeros(len(labels)), labels) == pytest.approx(np.mean(found), abs=1e-12)


def test_there_is_no_chance_without_a_positive() -> None:
    assert metrics.chance_average_precision(np.zeros(3), np.array([0, 0, -1])) is None


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


def _unknown(seed: int, targets: np.ndarray, share: float) -> np.ndarray:
    """All but the first sample, which stays known: torchmetrics fails on a class without a known sample."""
    masked = np.where(np.random.default_rng(seed).random(targets.shape) < share, -1, targets).astype(np.int8)
    masked[0] = targets[0]
    return masked


def _ranks(scores: np.ndarray) -> Tensor:
    """Scores in [0, 1] in the same order, with the same ties: torchmetrics puts all others through a sigmoid first,
    which makes ties of its own out of large scores."""
    _, rank = np.unique(scores, return_inverse=True)
    return torch.from_numpy(rank.reshape(scores.shape) / max(rank.max(), 1))


def _integers(targets: np.ndarray) -> Tensor:
    return torch.from_numpy(targets.astype(np.int64))


SHAPES = [(1, 3), (60, 2), (400, 12)]


# torchmetrics warns of classes without positives.
@pytest.mark.filterwarnings("ignore:No positive samples")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("samples", "classes"), SHAPES)
@pytest.mark.parametrize("decimals", [None, 1])
def test_average_precision_equals_torchmetrics(seed: int, samples: int, classes: int, decimals: int | None) -> None:
    scores, targets = _random(seed, samples, classes, None, 0.2)
    scores = scores if decimals is None else np.round(scores, decimals)
    targets = _unknown(seed, targets, 0.3)
    theirs = torchmetrics.multilabel_average_precision(
        _ranks(scores), _integers(targets), num_labels=classes, average="none", ignore_index=-1
    )
    ours = metrics.average_precision_per_class(scores, targets)
    for value, other in zip(ours, theirs.reshape(-1).tolist(), strict=True):
        # torchmetrics gives a class without a positive 0.
        assert other == pytest.approx(0 if value is None else value, abs=1e-6)


@pytest.mark.filterwarnings("ignore:No positive samples")
def test_the_mean_leaves_out_classes_that_torchmetrics_counts_as_zero() -> None:
    scores, targets = _random(5, 80, 4, 4, 0.3)
    targets[:, 3] = 0
    macro = float(
        torchmetrics.multilabel_average_precision(_ranks(scores), _integers(targets), num_labels=4, average="macro")
    )
    assert metrics.mean_average_precision(scores, targets) == pytest.approx(macro * 4 / 3, abs=1e-6)


ADVERSARIAL = {
    "all ties": ([0.5] * 7, [1, 0, 0, 1, 0, 1, 0]),
    "ties of one decimal": ([0.1, 0.3, 0.3, 0.1, 0.9, 0.9, 0.3], [0, 1, 0, 0, 1, 0, 1]),
    "all positive": ([0.3, 0.1, 0.3, -2.0], [1, 1, 1, 1]),
    "one positive sample": ([0.2], [1]),
    "one positive among unknown": ([0.2, 0.7, 0.7], [1, -1, -1]),
    "reversed": ([-3.0, -2.0, -1.0, 0.0, 1.0, 2.0], [1, 1, 1, 0, 0, 0]),
    "perfect": ([2.0, 1.0, 0.0, -1.0], [1, 1, 0, 0]),
    "tiny": ([1e-30, 2e-30, 3e-30, -1e-30], [0, 1, 0, 1]),
    "huge": ([1e30, 2e30, -1e30, 1.5e30], [0, 1, 1, 0]),
    "tiny and huge": ([1e-30, 1e30, 0.0, -1e30, 1e-30], [1, 0, 1, 0, 0]),
    "denormal differences": ([0.0, 5e-324, 1e-323, 1.5e-323], [1, 0, 1, 0]),
    "neighbouring floats": ([1.0, 1.0 + 2**-52, 1.0 - 2**-53, 1.0], [0, 1, 1, 1]),
}


@pytest.mark.parametrize(("scores", "targets"), ADVERSARIAL.values(), ids=ADVERSARIAL)
def test_average_precision_equals_both_libraries_on_adversarial_scores(scores: list[float], targets: list[int]) -> None:
    array, labels = np.array(scores), np.array(targets, dtype=np.int8)
    value, known = metrics.average_precision(array, labels), labels >= 0
    assert value == pytest.approx(_sklearn_ap(array[known], labels[known]), abs=1e-9)
    theirs = torchmetrics.binary_average_precision(_ranks(array), _integers(labels), ignore_index=-1)
    assert value == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize("name", ["tiny", "huge", "tiny and huge", "ties of one decimal"])
def test_float32_scores_rank_as_float64_ones(name: str) -> None:
    scores, targets = np.array(ADVERSARIAL[name][0]), np.array(ADVERSARIAL[name][1], dtype=np.int8)
    assert metrics.average_precision(scores.astype(np.float32), targets) == metrics.average_precision(scores, targets)


@pytest.mark.parametrize("targets", [[0], [0, 0, 0], [-1, -1], [0, -1], []])
def test_a_class_without_a_positive_has_no_average_precision(targets: list[int]) -> None:
    # scikit-learn and torchmetrics warn and say 0, which would be mistaken for a bad model.
    labels = np.array(targets, dtype=np.int8)
    scores = np.arange(len(targets), dtype=float)
    assert metrics.average_precision(scores, labels) is None
    assert metrics.voc11_average_precision(scores, labels) is None


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("samples", "classes"), SHAPES)
def test_precision_recall_and_f1_equal_torchmetrics(seed: int, samples: int, classes: int) -> None:
    scores, targets = _random(seed, samples, classes, 4, 0.4)
    targets[0, 0] = 1
    targets = _unknown(seed, targets, 0.3)
    predictions = metrics.threshold_predictions(scores, targets, 0.25)
    result, kept = metrics.classification(predictions, targets), (targets == 1).any(0)
    given = (_integers(predictions), _integers(targets))
    names = {"precision": ("CP", "OP"), "recall": ("CR", "OR"), "f1_score": (None, "OF1")}
    for name, (macro, micro) in names.items():
        multilabel = getattr(torchmetrics, f"multilabel_{name}")
        by_class = multilabel(*given, num_labels=classes, average="none", ignore_index=-1).reshape(-1).numpy()
        ours = getattr(result, name.removesuffix("_score"))
        assert [value for value in ours if value is not None] == pytest.approx(list(by_class[kept]), abs=1e-6)
        assert [value is not None for value in ours] == kept.tolist()
        overall = multilabel(*given, num_labels=classes, average="micro", ignore_index=-1)
        flat = getattr(torchmetrics, f"binary_{name}")(*(tensor.flatten() for tensor in given), ignore_index=-1)
        assert [float(overall), float(flat)] == pytest.approx([getattr(result, micro)] * 2, abs=1e-6)
        # torchmetrics' macro counts classes without positives as 0, and its macro F1 is the mean of the classes' F1,
        # while CF1 is the harmonic mean of CP and CR: what remains to compare is the mean over classes with positives.
        if macro:
            assert getattr(result, macro) == pytest.approx(by_class[kept].mean(), abs=1e-6)
    total = result.CP + result.CR
    assert pytest.approx(2 * result.CP * result.CR / total if total else 0, abs=1e-9) == result.CF1


@pytest.mark.parametrize("value", [0, 1])
def test_constant_targets_have_defined_precision_recall_and_f1(value: int) -> None:
    targets = np.full((4, 2), value, dtype=np.int8)
    targets[:, 1] = 1
    result = metrics.classification(np.ones((4, 2), dtype=bool), targets)
    assert (result.precision, result.recall, result.f1) == (([1.0, 1.0],) * 3 if value else ([None, 1.0],) * 3)
    overall = (result.CF1, result.OP, result.OR)
    assert overall == (1.0, 1.0 if value else 0.5, 1.0)


def _torchmetrics_ece(probabilities: np.ndarray, targets: np.ndarray, bins: int) -> float:
    known = targets >= 0
    given = torch.from_numpy(probabilities[known].astype(np.float64)), _integers(targets[known])
    return float(torchmetrics.binary_calibration_error(*given, n_bins=bins, norm="l1"))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("samples", "classes"), [*SHAPES, (1, 1)])
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_equals_torchmetrics(seed: int, samples: int, classes: int, bins: int) -> None:
    scores, targets = _random(seed, samples, classes, None, 0.3)
    probabilities = 1 / (1 + np.exp(-2 * scores))
    targets = _unknown(seed, targets, 0.3)
    expected = _torchmetrics_ece(probabilities, targets, bins)
    assert metrics.expected_calibration_error(probabilities, targets, bins) == pytest.approx(expected, abs=1e-6)
    single = probabilities.astype(np.float32)
    assert metrics.expected_calibration_error(single, targets, bins) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("probabilities", "targets"),
    [
        ([0.5] * 6, [1, 0, 0, 1, 0, 0]),
        ([0.1, 0.3, 0.3, 0.9, 0.9, 0.1], [0, 1, 0, 1, 0, 1]),
        ([0.2, 0.7, 0.9], [1, 1, 1]),
        ([0.2, 0.7, 0.9], [0, 0, 0]),
        ([0.0, 0.0], [0, 1]),
        ([1e-30, 5e-324, 0.0, 0.5], [0, 0, 1, 1]),
        ([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1]),
    ],
)
def test_calibration_error_equals_torchmetrics_on_adversarial_probabilities(
    probabilities: list[float], targets: list[int]
) -> None:
    # Seven bins: no edge but 0 and 1 is a decimal, so rounding of an edge cannot move a probability.
    array, labels = np.array(probabilities), np.array(targets, dtype=np.int8)
    expected = _torchmetrics_ece(array, labels, 7)
    assert metrics.expected_calibration_error(array, labels, 7) == pytest.approx(expected, abs=1e-6)


def test_probability_one_belongs_to_the_last_bin() -> None:
    probabilities, targets = np.array([[1.0, 0.96]]), np.array([[0, 1]], dtype=np.int8)
    assert metrics.expected_calibration_error(probabilities, targets) == pytest.approx((1.96 - 1) / 2)
    # torchmetrics opens a bin of its own for it.
    assert _torchmetrics_ece(probabilities, targets, 15) == pytest.approx((1 + 0.04) / 2)


def test_a_bin_holds_its_lower_edge() -> None:
    probabilities, targets = np.array([0.5, 0.75, 0.25]), np.array([0, 1, 0], dtype=np.int8)
    # Bins [0, 0.5) and [0.5, 1]: 0.25 alone, and 0.5 with 0.75.
    assert metrics.expected_calibration_error(probabilities, targets, 2) == pytest.approx((0.25 + 0.25) / 3)


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_follows_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities, targets = np.append(rng.random(300), [0.0, 1.0]), rng.integers(-1, 2, 302).astype(np.int8)
    known = [(p, t) for p, t in zip(probabilities.tolist(), targets.tolist(), strict=True) if t >= 0]
    expected = 0.0
    for number in range(15):
        inside = [(p, t) for p, t in known if min(int(p * 15), 14) == number]
        if inside:
            mean, share = (sum(pair[i] for pair in inside) / len(inside) for i in (0, 1))
            expected += len(inside) / len(known) * abs(mean - share)
    assert metrics.expected_calibration_error(probabilities, targets) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("probabilities", "targets", "bins", "reason"),
    [
        ([0.5, 0.5], [-1, -1], 15, "no target is known"),
        ([], [], 15, "no target is known"),
        ([0.5, 1.0000001], [1, 0], 15, "between 0 and 1"),
        ([-1e-9, 0.5], [1, 0], 15, "between 0 and 1"),
        ([0.5, np.nan], [1, 0], 15, "finite"),
        ([0.5, 0.5], [1, 0], 0, "bins"),
    ],
)
def test_calibration_error_without_meaning_is_refused(
    probabilities: list[float], targets: list[int], bins: int, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        metrics.expected_calibration_error(np.array(probabilities), np.array(targets, dtype=np.int8), bins)
