"""Models of every kind for the CLIP of the pack, made by hand, and photographs of noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from t2ipal.evaluation.calibration import Calibration
from t2ipal.identity import clip_identity
from t2ipal.learning import models
from t2ipal.learning.clip_adapter import ClipAdapterHead
from t2ipal.learning.dual import DualHead
from t2ipal.learning.ensemble import EnsembleHead
from t2ipal.learning.heads import Adapter, Head
from t2ipal.learning.linear import LinearHead
from t2ipal.learning.models import Scorer
from t2ipal.settings import FeatureSettings

PACK = Path(__file__).resolve().parents[2] / "src/t2ipal/pack/models/clip"
LABELS = ("fox", "badger", 'a "quoted", one', "🦊 fox", "=1+1")
KINDS = ("prompts", "no heatmap", "adapter", "cache", "linear", "memory", "clip-adapter", "dual", "ensemble")
SIZE = 128


def head_of(kind: str, labels: Sequence[str] = LABELS, size: int = SIZE) -> Scorer:
    """A head of random weights."""
    count, names = len(labels), tuple(labels)
    draw = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    prompts = Head(names, names, normal(count, size), normal(count, size), 4.0, 40.0, w_l=0.5)
    values = torch.eye(count).repeat(2, 1)
    changed: dict[str, Any] = {field.name: getattr(prompts, field.name) for field in fields(Head)}
    match kind:
        case "prompts":
            return prompts
        case "no heatmap":
            return Head(**{**changed, "tau_s": 0.0})
        case "normalised":
            return Head(**{**changed, "normalise": True})
        case "adapter":
            adapter = Adapter(normal(count, 2, size), normal(2 * count, size), values, 5.5, "max")
            return Head(**{**changed, "adapter": adapter, "alpha": 0.7})
        case "cache":
            adapter = Adapter(normal(count, 0, size), normal(2 * count, size), values, 5.5, "max")
            return Head(**{**changed, "adapter": adapter, "alpha": 0.7})
        case "linear":
            return LinearHead(names, normal(count, size), normal(count), None, 0.1)
        case "memory":
            memory = torch.nn.functional.normalize(normal(9, size), dim=-1)
            return LinearHead(names, normal(count, size), normal(count), memory, 0.1)
        case "clip-adapter":
            return ClipAdapterHead(names, normal(count, size), normal(size, 32) * 0.1, normal(32, size) * 0.1, 0.4, 4.0)
        case "dual":
            return DualHead(names, normal(count, size), normal(count, size), 40.0, 10.0)
        case "ensemble":
            return EnsembleHead((head_of("dual", labels), prompts), (0.1, 0.2), (1.0, 0.5), (1.0, 1.0))
    raise ValueError(kind)


MakeModel = Callable[..., Path]


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """Writes the directory of a model: a kind, labels, and what of its description is to differ."""

    def make(
        kind: str = "prompts", labels: Sequence[str] = LABELS, calibrated: bool = True, size: int = SIZE, **changes: Any
    ) -> Path:
        features = FeatureSettings(backbone=f"local-dir:{PACK}").model_dump(mode="json")
        features["model_identity"] = clip_identity(f"local-dir:{PACK}", None)
        count = len(labels)
        spread = np.linspace(-0.2, 0.2, count)
        calibration = Calibration(np.full(count, 2.0), np.linspace(-1, 1, count), spread)
        about = {
            "method": "t2i-pal",
            "features": features,
            "settings": {"method": "t2i-pal", "seed": 0, "data": {"synthetic": "both"}},
            "calibration": calibration.to_dict() if calibrated else None,
            "history": [],
            **changes,
        }
        directory = tmp_path / f"model {kind}"
        models.write(head_of(kind, labels, size), {"context": torch.zeros(2)}, about, directory / "model.json")
        return directory

    return make


@pytest.fixture
def model(make_model: MakeModel) -> Path:
    """A model with prompts and calibration."""
    return make_model()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven images in a folder and one below it, in several formats and sizes."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, name in enumerate(["a.png", "b.jpg", "c.webp", "d.bmp", "below/e.png", "f 🦊.png", '=g "x",y.png']):
        coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((90 + 7 * number, 110), Image.Resampling.BICUBIC).save(folder / name)
    return folder
