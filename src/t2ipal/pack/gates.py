"""What the embedded models must show before anything is measured with them, on validation scenes only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from t2ipal.config import SynthesisSettings
from t2ipal.evaluation.metrics import mean_average_precision
from t2ipal.features import store
from t2ipal.io import atomic_path, write_json
from t2ipal.labels import LabelSet
from t2ipal.learning.heads import Head
from t2ipal.pack import curves
from t2ipal.pack.autoencoder import to_signed
from t2ipal.pack.export import averaged
from t2ipal.pack.judge import JudgeTrainee
from t2ipal.synthesis import generator
from t2ipal.synthesis.gate import to_bytes
from t2ipal.synthesis.plan import image_seed

IMAGES_PER_CLASS = 20
PROBE_MARGIN = 0.10
TOP1 = 0.70


def _descriptor(features: store.Features) -> np.ndarray[Any, np.dtype[np.float32]]:
    """[N, 3 D]: global feature, mean and maximum of the local ones."""
    return np.concatenate([features.global_, features.local.mean(1), features.local.max(1)], axis=1)


def probe(train: store.Features, val: store.Features, names: Sequence[str]) -> float:
    """mAP on ``val`` of one logistic regression per class on the real features of ``train``."""
    targets, scores = train.targets(names), []
    inputs, held_out = _descriptor(train), _descriptor(val)
    for column in range(len(names)):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500, class_weight="balanced"))
        scores.append(model.fit(inputs, targets[:, column]).decision_function(held_out))
    return float(mean_average_precision(np.stack(scores, axis=1), val.targets(names)))


def draw(settings: SynthesisSettings, labels: LabelSet) -> dict[str, list[Image.Image]]:
    """Images of ``a photo of a <class>`` for every class, drawn as the synthesis stage draws them."""
    model = generator.load(settings.model_dump(mode="json"), "cpu")
    images = {}
    for name in labels.names:
        seeds = [image_seed(f"gate-{name}", replica, 0, 0) for replica in range(IMAGES_PER_CLASS)]
        drawn = model.draw([f"a photo of a {labels.prompt_name(name)}"] * IMAGES_PER_CLASS, seeds)
        images[name] = [Image.fromarray(to_bytes(image)) for image in drawn]
    return images


@torch.inference_mode()
def top1(directory: Path, images: dict[str, list[Image.Image]]) -> dict[str, float]:
    """Share of each class's images in which the judge sees that class first."""
    judge = JudgeTrainee().module
    judge.load_state_dict(averaged(directory, "judge"))
    judge.eval()
    shares = {}
    for index, (name, drawn) in enumerate(images.items()):
        batch = to_signed([np.asarray(image.resize((64, 64))) for image in drawn])
        shares[name] = float((judge(batch).argmax(1) == index).float().mean())
    return shares


def contact_sheet(images: dict[str, list[Image.Image]], columns: int = 10) -> Image.Image:
    """One row per class."""
    rows = [np.concatenate([np.asarray(image) for image in drawn[:columns]], axis=1) for drawn in images.values()]
    return Image.fromarray(np.concatenate(rows, axis=0))


def measure(
    settings: SynthesisSettings, model: Path, train: Sequence[Path], val: Sequence[Path], directory: Path, output: Path
) -> None:
    """Write the gates' figures to ``output``, the judged images and the curves of training beside it.

    Args:
        settings: of the synthesis stage, with the model to judge.
        model: a directory with a text-only model.
        train: Parquet parts of features of real training scenes.
        val: those of validation scenes.
        directory: of the pack's training.
        output: the JSON file to write, last.

    Raises:
        UserError: a part of the pack has not been trained.
    """
    curves.draw(directory, output.with_name("curves.png"))
    head, held_out = Head.load(model), store.read(val)
    names = list(head.labels)
    text_only = mean_average_precision(
        head.scores(held_out.global_, held_out.local, held_out.length).numpy(), held_out.targets(names)
    )
    probed = probe(store.read(train), held_out, names)
    images = draw(settings, LabelSet.load("voc2007"))
    shares = top1(directory, images)
    mean = float(np.mean(list(shares.values())))
    with atomic_path(output.with_suffix(".png")) as partial:
        contact_sheet(images).save(partial, "PNG")
    write_json(
        output,
        {
            "probe_mAP": round(probed, 4),
            "text_only_mAP": round(float(text_only), 4),
            "probe_gate": bool(probed - text_only >= PROBE_MARGIN),
            "generated_top1": round(mean, 4),
            "generated_top1_per_class": {name: round(share, 3) for name, share in shares.items()},
            "generated_gate": bool(mean >= TOP1),
        },
    )
