"""The evaluation stage: a model and test features in, ``scores.parquet`` and ``metrics.json`` out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from t2ipal.errors import UserError
from t2ipal.evaluation import metrics
from t2ipal.features import store
from t2ipal.features.store import Features
from t2ipal.io import atomic_path, canonical_json, read_json, write_json
from t2ipal.learning.heads import Head

TOP_K = 3
OVERALL = ("CP", "CR", "CF1", "OP", "OR", "OF1")


def compute(scores: metrics.Scores, targets: metrics.Targets) -> dict[str, float]:
    """The figures of the table: mAP, VOC's eleven-point mAP, and precision, recall and F1 of the top three."""
    top = asdict(metrics.classification(metrics.top_k_predictions(scores, targets, TOP_K), targets))
    return {
        "mAP": metrics.mean_average_precision(scores, targets),
        "mAP_voc11": metrics.mean_average_precision(scores, targets, metrics.voc11_average_precision),
        **{f"{name}_top{TOP_K}": top[name] for name in OVERALL},
    }


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


def _write_scores(
    output: Path,
    keys: Sequence[str],
    targets: metrics.Targets,
    scores: NDArray[np.float32],
    metadata: dict[str, Any],
) -> None:
    classes = scores.shape[1]
    columns = {
        "key": pa.array(list(keys), pa.string()),
        "target": pa.FixedSizeListArray.from_arrays(pa.array(targets.astype(np.int8).ravel()), classes),
        "score": pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), classes),
    }
    table = pa.table(columns).replace_schema_metadata({b"t2ipal": canonical_json(metadata).encode()})
    with atomic_path(output) as partial:
        pq.write_table(table, partial)


def evaluate(
    settings: dict[str, Any],
    model_dir: Path,
    features: Sequence[Path],
    output_dir: Path,
    fingerprint: str,
    seed: int | None = None,
) -> None:
    """Score the test features with the model in ``model_dir``; write ``scores.parquet``, then ``metrics.json``.

    ``seed`` is recorded as given; by default it is the one the model was trained with, null if it learns nothing.
    The protocol id is that of the settings, or else the one that the features were extracted under.

    Raises:
        UserError: model and features do not belong together, a score is not finite, or no class has a positive.
    """
    model, head, data = read_json(model_dir / "model.json"), Head.load(model_dir), store.read(features)
    names = list(head.labels)
    _check(model, names, data, model_dir)
    scores = head.scores(data.global_, data.local, data.length).numpy()
    targets = data.targets(names)
    if not np.isfinite(scores).all():
        raise UserError(f"model {model_dir} gives scores that are not finite; its training has diverged")
    if not (targets == 1).any():
        raise UserError("no test image shows a class of the model, so there is nothing to measure")
    per_class = metrics.average_precision_per_class(scores, targets)
    protocol = settings.get("protocol", data.meta.get("protocol"))
    _write_scores(output_dir / "scores.parquet", data.keys, targets, scores, {"labels": names, "protocol": protocol})
    record = {
        "benchmark": settings["benchmark"]["name"],
        "method": model["method"],
        "backbone": model["features"]["backbone"],
        "seed": model["settings"].get("seed") if seed is None else seed,
        "protocol": protocol,
        "fingerprint": fingerprint,
        "images": len(data.keys),
        "metrics": compute(scores, targets),
        "per_class_AP": dict(zip(names, per_class, strict=True)),
        "classes_without_positives": [n for n, value in zip(names, per_class, strict=True) if value is None],
    }
    write_json(output_dir / "metrics.json", record)
