"""The evaluation stage: a model and test features in, ``scores.parquet`` and ``metrics.json`` out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from t2ipal.errors import UserError
from t2ipal.evaluation import metrics, predictions
from t2ipal.evaluation.calibration import Calibration, of_model
from t2ipal.evaluation.scores import SCORES_FILE
from t2ipal.evaluation.scores import write as write_scores
from t2ipal.features import store
from t2ipal.features.store import Features
from t2ipal.io import write_json
from t2ipal.learning import models

TOP_K = 3
OVERALL = ("CP", "CR", "CF1", "OP", "OR", "OF1")


def _decided(scores: metrics.Scores, targets: metrics.Targets, calibration: Calibration) -> metrics.Classification:
    predictions = metrics.threshold_predictions(scores, targets, calibration.thresholds)
    return metrics.classification(predictions, targets)


def compute(
    scores: metrics.Scores, targets: metrics.Targets, calibration: Calibration | None = None
) -> dict[str, float]:
    """The figures of the table: mAP, VOC's eleven-point mAP, and precision, recall and F1 of the top three.

    ``mAP_chance`` is the mAP that is expected of a random order of the images.
    With a calibration also precision, recall and F1 at its thresholds (names without suffix), and ``ECE``, the
    expected calibration error of its probabilities.
    """
    top = asdict(metrics.classification(metrics.top_k_predictions(scores, targets, TOP_K), targets))
    figures = {
        "mAP": metrics.mean_average_precision(scores, targets),
        "mAP_chance": metrics.mean_average_precision(scores, targets, metrics.chance_average_precision),
        "mAP_voc11": metrics.mean_average_precision(scores, targets, metrics.voc11_average_precision),
        **{f"{name}_top{TOP_K}": top[name] for name in OVERALL},
    }
    if calibration is None:
        return figures
    decided = asdict(_decided(scores, targets, calibration))
    error = metrics.expected_calibration_error(calibration.probabilities(scores), targets)
    return {**figures, **{name: decided[name] for name in OVERALL}, "ECE": error}


def per_class(
    scores: metrics.Scores, targets: metrics.Targets, labels: Sequence[str], calibration: Calibration | None = None
) -> dict[str, dict[str, float | None]]:
    """What was measured of each class: ``AP`` and the number of ``positives``.

    With a calibration also its ``threshold``, and ``precision``, ``recall`` and ``f1`` there. All but threshold and
    number are None for a class without a positive.
    """
    found: dict[str, list[Any]] = {
        "AP": metrics.average_precision_per_class(scores, targets),
        "positives": (targets == 1).sum(axis=0).tolist(),
    }
    if calibration is not None:
        decided = _decided(scores, targets, calibration)
        found |= {"precision": decided.precision, "recall": decided.recall, "f1": decided.f1}
        found["threshold"] = calibration.thresholds.tolist()
    rows = zip(*found.values(), strict=True)
    return {label: dict(zip(found, row, strict=True)) for label, row in zip(labels, rows, strict=True)}


def _check(model: dict[str, Any], names: Sequence[str], features: Features, model_dir: Path) -> None:
    """Refuse features that the model cannot be measured on."""
    if not len(features.keys):
        raise UserError("the features to evaluate on hold no row")
    foreign = {name for row in (*features.labels, *features.unknown) for name in row}.difference(names)
    if foreign:
        raise UserError(f"the test images carry the label '{min(foreign)}', which model {model_dir} does not recognise")
    absent = sorted(set(names).difference(features.meta.get("label_names", names)))
    if absent:
        raise UserError(f"model {model_dir} recognises '{absent[0]}', which the test labels do not have")
    learned, given = model["features"].get("model_identity"), features.meta["identity"]
    if learned is not None and learned != given:
        raise UserError(
            f"model {model_dir} belongs to backbone {learned}, the test features to {given}; extract them anew"
        )


def _backbone(features: Mapping[str, Any]) -> str:
    """Its name, with that of its checkpoint: one without the other would not tell two models apart."""
    pretrained = features.get("pretrained")
    return f"{features['backbone']} ({pretrained})" if pretrained else str(features["backbone"])


@dataclass(frozen=True)
class Job:
    """One evaluation: its unit's settings and fingerprint, the model's directory, the ``metrics.json`` to write."""

    settings: dict[str, Any]
    fingerprint: str
    model: Path
    output: Path

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Job:
        """The job of a description as the workflow passes it."""
        return cls(
            dict(described["settings"]), described["fingerprint"], Path(described["model"]), Path(described["output"])
        )

    def is_current(self, features: Sequence[Path]) -> bool:
        """Whether its results are there and newer than model and features."""
        inputs = [*features, self.model / models.MODEL_FILE, self.model / models.WEIGHTS_FILE]
        names = [SCORES_FILE, *([predictions.FILE] if self.settings["benchmark"]["name"] == "own" else [])]
        results = [self.output, *map(self.output.with_name, names)]
        try:
            made = min(path.stat().st_mtime_ns for path in results)
            return made >= max(path.stat().st_mtime_ns for path in inputs)
        except OSError:
            return False


def evaluate_all(jobs: Sequence[Job], features: Sequence[Path]) -> None:
    """Score the same test features with the model of every job whose results are not there yet.

    Raises:
        UserError: see ``evaluate``.
    """
    due = [job for job in jobs if not job.is_current(features)]
    if due:
        data = store.read(features)
        for job in due:
            evaluate(job.settings, job.model, data, job.output.parent, job.fingerprint)


def _protocol(settings: Mapping[str, Any], data: Features) -> str | None:
    """The protocol id of the settings, or else that of the features; with the number of images that are left out.

    Raises:
        UserError: more images are left out than the configuration puts up with.
    """
    protocol: str | None = settings.get("protocol", data.meta.get("protocol"))
    count, left_out = len(data.keys), len(data.missing)
    if not left_out or protocol is None:
        return protocol
    tolerated = settings["benchmark"].get("missing", 0.0)
    if left_out > tolerated * (count + left_out):
        first = "; ".join(f"{entry['file']}: {entry['reason']}" for entry in data.missing[:3])
        raise UserError(
            f"{left_out} of {count + left_out} test images are missing or unreadable ({first}); restore them, or raise "
            "benchmark.missing to leave them out (their number is in the protocol id)"
        )
    return f"{protocol}/missing-{left_out}"


def evaluate(settings: dict[str, Any], model_dir: Path, data: Features, output_dir: Path, fingerprint: str) -> None:
    """Score the test features with the model in ``model_dir``; write ``scores.parquet``, then ``metrics.json``.

    The seed recorded is the one that the model was trained with, null if it learns nothing. The protocol id is
    that of the settings, or else the one that the features were extracted under. Where no label of any image is
    known there are no metrics. Of images of one's own, ``predictions.csv`` says what is recognised.

    Raises:
        UserError: model and features do not belong together, the model's calibration is damaged, a score is not
            finite, too many images are missing, or no class has a positive.
    """
    model, head = models.read_description(model_dir), models.load(model_dir)
    names = list(head.labels)
    _check(model, names, data, model_dir)
    calibration = of_model(model, len(names), model_dir)
    protocol = _protocol(settings, data)
    scores = head.scores(data.global_, data.local, data.length).numpy()
    targets = data.targets(names)
    known = bool((targets != -1).any())
    if not np.isfinite(scores).all():
        raise UserError(f"model {model_dir} gives scores that are not finite; its training has diverged")
    if known and not (targets == 1).any():
        raise UserError("no test image shows a class of the model, so there is nothing to measure")
    classes = per_class(scores, targets, names, calibration) if known else {name: {} for name in names}
    write_scores(output_dir / SCORES_FILE, data.keys, targets, scores, {"labels": names, "protocol": protocol})
    if settings["benchmark"]["name"] == "own":
        predictions.write(output_dir / predictions.FILE, data.keys, names, scores, calibration)
    record = {
        "benchmark": settings["benchmark"]["name"],
        "method": model["method"],
        "backbone": _backbone(model["features"]),
        "seed": model["settings"].get("seed"),
        "protocol": protocol,
        "fingerprint": fingerprint,
        "model": model_dir.name,
        "images": len(data.keys),
        "missing": data.missing,
        "metrics": compute(scores, targets, calibration) if known else {},
        "per_class": classes,
        "per_class_AP": {name: found.get("AP") for name, found in classes.items()},
        "classes_without_positives": [name for name, found in classes.items() if not found.get("positives")],
    }
    write_json(output_dir / "metrics.json", record)
