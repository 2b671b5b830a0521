import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from t2ipal.errors import UserError
from t2ipal.evaluation import metrics
from t2ipal.evaluation.calibration import Calibration
from t2ipal.evaluation.stage import SCORES_FILE, Job, compute, evaluate, evaluate_all
from t2ipal.features import store
from t2ipal.io import file_sha256

SETTINGS: dict[str, Any] = {"benchmark": {"name": "openmoji", "labels": "own", "test_images": 4}}
NAMES = ["cat", "dog", "fox"]


def _model(
    directory: Path,
    seed: int | None = 7,
    identity: str = "sha256:1",
    names: list[str] = NAMES,
    calibration: Any = None,
) -> Path:
    directory.mkdir()
    axes = np.eye(4, dtype=np.float32)[: len(names)]
    save_file({"global_embeddings": axes, "local_embeddings": axes}, directory / "model.safetensors")
    scores = {"tau": 4.0, "tau_s": 40.0, "w_g": 1.0, "w_l": 0.0, "alpha": 0.0, "normalise": False}
    description = {
        "format": 2,
        "method": "zero-shot",
        "labels": names,
        "head": {"kind": "prompts", "labels": names, "prompt_names": names, "scores": scores},
        "features": {"backbone": "local-dir:clip", "model_identity": identity},
        "calibration": calibration,
        "settings": {} if seed is None else {"seed": seed},
        "weights_sha256": file_sha256(directory / "model.safetensors"),
    }
    (directory / "model.json").write_text(json.dumps(description))
    return directory


def _parts(
    path: Path, labels: list[list[str]], unknown: list[list[str]] | None = None, scale: float = 1.0
) -> list[Path]:
    """Images 0, 1, 2, ... look like classes 0, 1, 2, 0, ... of NAMES; one part per two images."""
    values = np.eye(4, dtype=np.float32)[np.arange(len(labels)) % 3] * scale
    parts = []
    for start in range(0, len(labels), 2):
        part = slice(start, start + 2)
        global_ = values[part]
        rows = store.Rows(
            [f"image-{i}" for i in range(start, min(start + 2, len(labels)))],
            labels[part],
            (unknown or [[] for _ in labels])[part],
            global_,
            np.repeat(global_[:, None], 2, axis=1),
            np.full(len(global_), 2, dtype=np.int16),
        )
        parts.append(path / f"part-{start:05d}.parquet")
        store.write(parts[-1], [rows], {"source": "test", "identity": "sha256:1", "protocol": "p/4"})
    return parts


def _features(path: Path, *args: Any, **kwargs: Any) -> store.Features:
    return store.read(_parts(path, *args, **kwargs))


TRUE = [["cat"], ["dog"], ["fox"], ["cat"]]


def test_scores_and_metrics_of_a_perfect_model(tmp_path: Path) -> None:
    evaluate(SETTINGS, _model(tmp_path / "m"), _features(tmp_path, TRUE), tmp_path / "out", "f" * 12)
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert record["metrics"]["mAP"] == record["metrics"]["mAP_voc11"] == 1.0
    assert record["metrics"]["OP_top3"] == pytest.approx(1 / 3)
    assert record["metrics"]["OR_top3"] == 1.0
    assert record["per_class_AP"] == {"cat": 1.0, "dog": 1.0, "fox": 1.0}
    assert (record["benchmark"], record["method"], record["backbone"]) == ("openmoji", "zero-shot", "local-dir:clip")
    assert (record["seed"], record["protocol"], record["fingerprint"]) == (7, "p/4", "f" * 12)
    table = pq.read_table(tmp_path / "out" / "scores.parquet")
    assert table["key"].to_pylist() == ["image-0", "image-1", "image-2", "image-3"]
    assert table["target"].to_pylist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert np.allclose(table["score"].to_pylist(), np.array(table["target"].to_pylist()) * 4.0)
    assert json.loads(table.schema.metadata[b"t2ipal"]) == {"labels": NAMES, "protocol": "p/4"}


def test_a_wrong_and_an_unknown_label_change_what_is_measured(tmp_path: Path) -> None:
    data = _features(tmp_path, [["cat"], ["dog"], ["fox"], ["dog"]], [[], [], [], ["cat"]])
    evaluate(SETTINGS, _model(tmp_path / "m"), data, tmp_path / "out", "f")
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    # dog: image 1 first (precision 1), then image 3 tied with the others at score 0 (2 of 4).
    assert record["per_class_AP"] == {"cat": 1.0, "dog": pytest.approx(0.75), "fox": 1.0}


def test_classes_without_positives_are_reported_and_left_out(tmp_path: Path) -> None:
    data = _features(tmp_path, [["cat"], ["dog"], [], []])
    evaluate(SETTINGS, _model(tmp_path / "m"), data, tmp_path / "out", "f")
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert record["per_class_AP"]["fox"] is None
    assert record["classes_without_positives"] == ["fox"]
    assert record["metrics"]["mAP"] == pytest.approx((0.5 + 1) / 2)


def test_the_settings_protocol_goes_first_and_no_seed_is_null(tmp_path: Path) -> None:
    settings = {**SETTINGS, "protocol": "given"}
    evaluate(settings, _model(tmp_path / "m", seed=None), _features(tmp_path, TRUE), tmp_path / "out", "f")
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (record["seed"], record["protocol"]) == (None, "given")


def test_two_checkpoints_of_one_architecture_are_told_apart(tmp_path: Path) -> None:
    model = _model(tmp_path / "m")
    description = json.loads((model / "model.json").read_text())
    description["features"] |= {"backbone": "RN50", "pretrained": "openai"}
    (model / "model.json").write_text(json.dumps(description))
    evaluate(SETTINGS, model, _features(tmp_path, TRUE), tmp_path / "out", "f")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["backbone"] == "RN50 (openai)"


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    model, data = _model(tmp_path / "m"), _features(tmp_path, TRUE)
    for name in ("a", "b"):
        evaluate(SETTINGS, model, data, tmp_path / name, "f")
    for name in ("metrics.json", "scores.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_features_of_another_backbone_are_refused(tmp_path: Path) -> None:
    model = _model(tmp_path / "m", identity="sha256:2")
    with pytest.raises(UserError, match="backbone sha256:2"):
        evaluate(SETTINGS, model, _features(tmp_path, TRUE), tmp_path / "out", "f")
    assert not (tmp_path / "out").exists()


def test_labels_that_the_model_does_not_know_are_refused(tmp_path: Path) -> None:
    model = _model(tmp_path / "m", names=["cat", "dog"])
    with pytest.raises(UserError, match="'fox'"):
        evaluate(SETTINGS, model, _features(tmp_path, TRUE), tmp_path / "out", "f")


def test_scores_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    data = _features(tmp_path, TRUE, scale=float("nan"))
    with pytest.raises(UserError, match="not finite"):
        evaluate(SETTINGS, _model(tmp_path / "m"), data, tmp_path / "out", "f")
    assert not (tmp_path / "out").exists()


def test_nothing_to_measure_is_refused(tmp_path: Path) -> None:
    data = _features(tmp_path, [[], [], [], []])
    with pytest.raises(UserError, match="nothing to measure"):
        evaluate(SETTINGS, _model(tmp_path / "m"), data, tmp_path / "out", "f")


CALIBRATION = {"slope": [1.0, 2.0, 0.0], "intercept": [-2.0, -4.0, 0.5], "thresholds": [2.0, 3.0, 4.5]}


def _record(tmp_path: Path, model: Path, labels: list[list[str]] = TRUE) -> dict[str, Any]:
    evaluate(SETTINGS, model, _features(tmp_path, labels), tmp_path / "out", "f")
    record: dict[str, Any] = json.loads((tmp_path / "out" / "metrics.json").read_text())
    return record


def test_a_calibrated_model_is_also_measured_at_its_thresholds(tmp_path: Path) -> None:
    record = _record(tmp_path, _model(tmp_path / "m", calibration=CALIBRATION))
    # An image's own class scores 4, the others 0; fox needs 4.5 and is never found.
    decided = {name: record["metrics"][name] for name in ("CP", "CR", "CF1", "OP", "OR", "OF1")}
    assert decided == pytest.approx({"CP": 2 / 3, "CR": 2 / 3, "CF1": 2 / 3, "OP": 1, "OR": 3 / 4, "OF1": 6 / 7})
    low_cat, high_cat, low_dog, high_dog, fox = (1 / (1 + math.exp(-odds)) for odds in (-2, 2, -4, 4, 0.5))
    # Bins of width 1/15: the low probabilities of cat and dog, all of fox (one positive in four), cat's and dog's high.
    gaps = [2 * low_cat, 3 * low_dog, abs(4 * fox - 1), 2 * (1 - high_cat), 1 - high_dog]
    assert record["metrics"]["ECE"] == pytest.approx(sum(gaps) / 12, abs=1e-6)
    assert record["per_class"] == {
        "cat": {"AP": 1.0, "positives": 2, "precision": 1.0, "recall": 1.0, "f1": 1.0, "threshold": 2.0},
        "dog": {"AP": 1.0, "positives": 1, "precision": 1.0, "recall": 1.0, "f1": 1.0, "threshold": 3.0},
        "fox": {"AP": 1.0, "positives": 1, "precision": 0.0, "recall": 0.0, "f1": 0.0, "threshold": 4.5},
    }


def test_a_calibration_changes_no_other_figure(tmp_path: Path) -> None:
    plain = _record(tmp_path / "a", _model(tmp_path / "m"))
    calibrated = _record(tmp_path / "b", _model(tmp_path / "c", calibration=CALIBRATION))
    added = {"CP", "CR", "CF1", "OP", "OR", "OF1", "ECE"}
    assert set(calibrated["metrics"]) - set(plain["metrics"]) == added
    assert {name: value for name, value in calibrated["metrics"].items() if name not in added} == plain["metrics"]
    other = dict.fromkeys(("metrics", "per_class", "model"))
    assert {**calibrated, **other} == {**plain, **other}


def test_each_class_tells_its_positives_and_average_precision_also_without_a_calibration(tmp_path: Path) -> None:
    record = _record(tmp_path, _model(tmp_path / "m"), [["cat"], ["dog"], [], ["cat"]])
    assert record["per_class"] == {
        "cat": {"AP": 1.0, "positives": 2},
        "dog": {"AP": 1.0, "positives": 1},
        "fox": {"AP": None, "positives": 0},
    }
    assert {name: found["AP"] for name, found in record["per_class"].items()} == record["per_class_AP"]


def test_a_class_without_positives_has_a_threshold_but_no_precision(tmp_path: Path) -> None:
    record = _record(tmp_path, _model(tmp_path / "m", calibration=CALIBRATION), [["cat"], ["dog"], [], ["cat"]])
    nothing = {"AP": None, "precision": None, "recall": None, "f1": None}
    assert record["per_class"]["fox"] == {**nothing, "positives": 0, "threshold": 4.5}
    assert record["metrics"]["CF1"] == 1.0


@pytest.mark.parametrize(
    ("calibration", "reason"),
    [
        ({**CALIBRATION, "slope": [1.0]}, "damaged .* length"),
        ({**CALIBRATION, "thresholds": [0.1, 0.2, math.inf]}, "damaged .* finite"),
        ({}, "damaged .* lists"),
        ("text", "damaged .* lists"),
        ({name: values[:2] for name, values in CALIBRATION.items()}, "of 2 classes, the model recognises 3"),
    ],
)
def test_a_damaged_calibration_is_refused(tmp_path: Path, calibration: Any, reason: str) -> None:
    with pytest.raises(UserError, match=f"'calibration' of model .*{reason}.*train it again"):
        _record(tmp_path, _model(tmp_path / "m", calibration=calibration))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seed", range(3))
def test_figures_follow_from_scores_targets_and_calibration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, targets = rng.standard_normal((60, 3)).astype(np.float32), rng.integers(-1, 2, (60, 3)).astype(np.int8)
    calibration = Calibration(np.array([1.0, 0.5, 2.0]), np.array([0.0, -1.0, 0.3]), np.array([0.1, 0.0, -0.4]))
    figures = compute(scores, targets, calibration)
    predicted = [[s >= t for s, t in zip(row, calibration.thresholds, strict=True)] for row in scores]
    pairs = [(p, int(t)) for row in zip(predicted, targets, strict=True) for p, t in zip(*row, strict=True) if t >= 0]
    true = sum(p and t for p, t in pairs)
    assert figures["OP"] == pytest.approx(true / sum(p for p, _ in pairs))
    assert figures["OR"] == pytest.approx(true / sum(t for _, t in pairs))
    expected = metrics.expected_calibration_error(calibration.probabilities(scores), targets)
    assert figures["ECE"] == pytest.approx(expected)


def _jobs(tmp_path: Path, count: int = 3) -> list[Job]:
    """Jobs of models with seeds 0, 1, ..., as the workflow describes them."""
    return [
        Job.of(
            {
                "settings": SETTINGS,
                "fingerprint": str(seed) * 12,
                "model": str(_model(tmp_path / f"model-{seed}", seed=seed)),
                "output": str(tmp_path / f"out-{seed}" / "metrics.json"),
            }
        )
        for seed in range(count)
    ]


def _later(path: Path, than: Path) -> None:
    time = than.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(time, time))


def test_one_reading_of_the_features_serves_all_models_as_if_each_were_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, jobs, readings = _parts(tmp_path, TRUE), _jobs(tmp_path), []
    read = store.read
    monkeypatch.setattr(store, "read", lambda paths: readings.append(paths) or read(paths))
    evaluate_all(jobs, parts)
    assert readings == [parts]
    for job in jobs:
        evaluate(job.settings, job.model, read(parts), tmp_path / "alone", job.fingerprint)
        for name in ("metrics.json", SCORES_FILE):
            assert (job.output.parent / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert [json.loads(job.output.read_text())["seed"] for job in jobs] == [0, 1, 2]


def test_what_is_there_is_kept_and_nothing_is_read_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, jobs = _parts(tmp_path, TRUE), _jobs(tmp_path)
    evaluate_all(jobs[:2], parts)
    made = [job.output.stat().st_mtime_ns for job in jobs[:2]]
    evaluate_all(jobs, parts)
    assert [job.output.stat().st_mtime_ns for job in jobs[:2]] == made
    assert jobs[2].output.is_file()
    monkeypatch.setattr(store, "read", lambda paths: pytest.fail("all is there already"))
    evaluate_all(jobs, parts)


@pytest.mark.parametrize("newer", ["features", "model.json", "model.safetensors"])
def test_results_older_than_what_they_are_made_from_are_made_anew(tmp_path: Path, newer: str) -> None:
    parts, (job,) = _parts(tmp_path, TRUE), _jobs(tmp_path, 1)
    evaluate_all([job], parts)
    job.output.write_text("stale")
    assert job.is_current(parts)
    _later(parts[1] if newer == "features" else job.model / newer, job.output)
    assert not job.is_current(parts)
    evaluate_all([job], parts)
    assert json.loads(job.output.read_text())["metrics"]["mAP"] == 1.0


@pytest.mark.parametrize("gone", ["metrics.json", SCORES_FILE])
def test_a_result_that_is_gone_is_made_again_to_the_byte(tmp_path: Path, gone: str) -> None:
    parts, (job,) = _parts(tmp_path, TRUE), _jobs(tmp_path, 1)
    evaluate_all([job], parts)
    path = job.output.with_name(gone)
    before = path.read_bytes()
    path.unlink()
    evaluate_all([job], parts)
    assert path.read_bytes() == before


def test_models_before_a_damaged_one_keep_their_results(tmp_path: Path) -> None:
    parts, jobs = _parts(tmp_path, TRUE), _jobs(tmp_path)
    (jobs[1].model / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="model-1"):
        evaluate_all(jobs, parts)
    assert [job.output.exists() for job in jobs] == [True, False, False]


def test_an_empty_set_of_test_images_is_refused(tmp_path: Path) -> None:
    data = _features(tmp_path, TRUE)
    empty = replace(data, keys=[], labels=[], unknown=[], global_=data.global_[:0], local=data.local[:0])
    with pytest.raises(UserError, match="hold no row"):
        evaluate(SETTINGS, _model(tmp_path / "m"), empty, tmp_path / "out", "f")


def _with_missing(path: Path) -> store.Features:
    gone = [{"key": "x", "file": "x.jpg", "reason": "cannot identify image file"}]
    return replace(_features(path, TRUE), missing=gone)


def test_images_left_out_are_in_the_protocol_and_the_record(tmp_path: Path) -> None:
    settings = {"benchmark": {**SETTINGS["benchmark"], "missing": 0.2}}
    evaluate(settings, _model(tmp_path / "m"), _with_missing(tmp_path), tmp_path / "out", "f")
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert record["protocol"] == "p/4/missing-1"
    assert record["images"] == 4
    assert record["missing"] == [{"key": "x", "file": "x.jpg", "reason": "cannot identify image file"}]


@pytest.mark.parametrize("missing", [{}, {"missing": 0.19}])
def test_more_images_left_out_than_is_tolerated_are_refused(tmp_path: Path, missing: dict[str, float]) -> None:
    settings = {"benchmark": {**SETTINGS["benchmark"], **missing}}
    with pytest.raises(UserError, match=r"1 of 5 test images .*x\.jpg: cannot identify.*benchmark\.missing"):
        evaluate(settings, _model(tmp_path / "m"), _with_missing(tmp_path), tmp_path / "out", "f")


def test_images_of_which_nothing_is_known_are_recognised_and_not_measured(tmp_path: Path) -> None:
    data = _features(tmp_path, [[]] * 4, [NAMES] * 4)
    evaluate({"benchmark": {"name": "own"}}, _model(tmp_path / "m"), data, tmp_path / "out", "f")
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert record["metrics"] == {} and set(record["per_class_AP"].values()) == {None}
    assert (tmp_path / "out" / "predictions.csv").read_text().splitlines()[0] == "image,cat,dog,fox"


def test_predictions_that_are_gone_are_made_again(tmp_path: Path) -> None:
    parts, output = _parts(tmp_path, TRUE), tmp_path / "out" / "metrics.json"
    job = Job({"benchmark": {"name": "own"}}, "f", _model(tmp_path / "m"), output)
    evaluate_all([job], parts)
    assert job.is_current(parts)
    output.with_name("predictions.csv").unlink()
    assert not job.is_current(parts)
