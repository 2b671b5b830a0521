"""A tiny random CLIP, a word tokenizer, features that can be told apart by class, and jobs on files of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from t2ipal.config import changed, parse
from t2ipal.features import backbone as backbones
from t2ipal.features import store
from t2ipal.layout import Layout
from t2ipal.learning.workroom import Job
from t2ipal.units import Unit
from t2ipal.verification import store as verifications

CONTEXT_LENGTH = 20
WORDS = [
    *("<pad>", "a", "an", "photo", "picture", "of", "the", "big", "small"),
    *("dog", "cat", "dining", "table", "bus", "potted", "plant", "sofa"),
]
START, END = 17, 18
NAMES = ("dog", "cat", "dining_table", "bus")


def token(word: str) -> int:
    """The id of a known word; another word gets that of some known one."""
    word = word.strip(".,")
    return WORDS.index(word) if word in WORDS else 1 + sum(word.encode()) % (len(WORDS) - 1)


def tokenize(texts: list[str]) -> torch.Tensor:
    """[N, 20] ids: start, one per word, end, zero padding."""
    ids = torch.zeros(len(texts), CONTEXT_LENGTH, dtype=torch.long)
    for row, text in enumerate(texts):
        found = [START, *map(token, text.split()), END]
        ids[row, : len(found)] = torch.tensor(found)
    return ids


def tiny_clip(custom: bool = False, **text: Any) -> torch.nn.Module:
    """A random open_clip model: D = 16, text width 32; ``custom`` gives the CustomTextCLIP layout."""
    from open_clip.model import CLIP, CustomTextCLIP

    torch.manual_seed(0)
    kind = CustomTextCLIP if custom else CLIP
    model = kind(
        16,
        {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
        {"context_length": CONTEXT_LENGTH, "vocab_size": END + 1, "width": 32, "heads": 2, "layers": 2, **text},
    ).eval()
    tower = model.text if custom else model
    assert len(WORDS) == START
    # Random token embeddings as small as a new model's would make all texts alike.
    with torch.no_grad():
        tower.token_embedding.weight.mul_(20)
    return model.requires_grad_(False)


def tiny_backbone(clip: Any, device: str = "cpu") -> SimpleNamespace:
    """What learning reads of ``t2ipal.features.backbone.Backbone``."""

    @torch.inference_mode()
    def encode_text(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        global_ = normalize(clip.encode_text(tokenize(texts)), dim=-1)
        return global_, global_[:, None], torch.ones(len(texts))

    return SimpleNamespace(model=clip, tokenizer=tokenize, encode_text=encode_text, device=torch.device(device))


@pytest.fixture(scope="session")
def clip() -> torch.nn.Module:
    return tiny_clip()


@dataclass
class FakeFeatures:
    """What learning reads of ``t2ipal.features.store.Features``."""

    global_: NDArray[np.float32]
    local: NDArray[np.float32]
    length: NDArray[np.int16]
    values: NDArray[np.int8]
    meta: dict[str, Any] = field(default_factory=dict)

    def targets(self, names: Any) -> NDArray[np.int8]:
        assert len(names) == self.values.shape[1]
        return self.values


def separable(samples: int, classes: int, seed: int = 0, noise: float = 0.4, positions: int = 5) -> FakeFeatures:
    """Each class is a direction; a sample with it has it in its global feature and at one local position."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(np.random.default_rng(99).normal(size=(16, 16)))[0][:classes]
    targets = np.zeros((samples, classes), dtype=np.int8)
    local = noise * rng.normal(size=(samples, positions, 16)) / 4
    for row in range(samples):
        for place, label in enumerate(rng.choice(classes, size=rng.integers(1, 3), replace=False)):
            targets[row, label] = 1
            local[row, place] += directions[label]
    global_ = targets @ directions + noise * rng.normal(size=(samples, 16)) / 4
    length = rng.integers(2, positions + 1, size=samples).astype(np.int16)
    local[np.arange(positions)[None] >= length[:, None]] = 0
    return FakeFeatures(_unit(global_), _unit(local), length, targets)


def _unit(values: NDArray[Any]) -> NDArray[np.float32]:
    norms = np.linalg.norm(values, axis=-1, keepdims=True)
    return (values / np.maximum(norms, 1e-12)).astype(np.float32)


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """What the tests of learning are made of, by name."""
    return SimpleNamespace(
        clip=tiny_clip, tokenize=tokenize, separable=separable, context_length=CONTEXT_LENGTH, backbone=tiny_backbone
    )


# Sources differ in their numbers of samples and local positions; those of several parts show that all are read.
SOURCES = {"captions": (64, 7), "synthetic": (80, 5), "train": (40, 6)}
CONFIG: dict[str, Any] = {
    "features": {"backbone": "tiny", "part_size": 32},
    "synthesis": {"model": "tiny", "shard_size": 50},
    "benchmark": {"train_images": 40},
    "captions": {"total": 64},
    "prompts": {"length": 4, "template": "a photo of a {}"},
    "training": {
        "epochs": 3,
        "batch_size": 32,
        "learning_rate": 0.05,
        "warmup_learning_rate": 0.005,
        "held_out": 0.25,
    },
    "adapter": {
        "prototypes": 2,
        "keys_per_class": 6,
        "epochs": 2,
        "betas": [1.0, 5.5],
        "alphas": [0.25, 1.0],
        "local_weights": [1.0, 2.0],
        "learning_rate": 0.01,
    },
    "linear": {"epochs": 2},
    "clip_adapter": {"epochs": 2},
    "real": {"shots": 4, "known": 0.5},
}


@dataclass(frozen=True)
class Run:
    """A run's directory: feature files where the layout has them, and jobs as the workflow describes them."""

    root: Path

    def layout(self, changes: Mapping[str, Any] | None = None) -> Layout:
        """The layout of the small configuration, changed by dotted keys."""
        labels = self.root / "labels.yaml"
        if not labels.exists():
            labels.write_text("classes: [" + ", ".join(NAMES) + "]\n")
        config = parse({"results": str(self.root / "results"), **CONFIG})
        return Layout(changed(config, {"benchmark.labels": str(labels), **(changes or {})}))

    def described(self, method: str, changes: Mapping[str, Any] | None = None, seed: int = 0) -> dict[str, Any]:
        """A job as the workflow passes it; its features are written if they are not there."""
        layout = self.layout(changes)
        unit = layout.training(method, seed)
        sources = [above for above in unit.upstream if above.stage == "features"]
        for above in sources:
            if not (layout.directory(above) / f"part-{above.pieces[0]}.parquet").exists():
                self._write(layout, above)
        verified = [above for above in unit.upstream if above.stage == "verification"]
        for above in verified:
            if not layout.directory(above).exists():
                self._verify(layout, above)
        return {
            "settings": unit.settings,
            "output": str(layout.directory(unit) / "model.json"),
            "features": {above.settings["source"]: [str(layout.directory(above)), above.pieces] for above in sources},
            "members": [str(layout.directory(above)) for above in unit.upstream if above.stage == "training"],
            **{above.stage: [str(layout.directory(above)), above.pieces] for above in verified},
        }

    def job(self, method: str, changes: Mapping[str, Any] | None = None, seed: int = 0) -> Job:
        """The job of ``described``."""
        return Job.of(self.described(method, changes, seed))

    @staticmethod
    def _write(layout: Layout, unit: Unit) -> None:
        source = unit.settings["source"]
        count, positions = SOURCES[source]
        features = separable(count, len(NAMES), list(SOURCES).index(source), positions=positions)
        for piece, rows in zip(unit.pieces, np.array_split(np.arange(count), len(unit.pieces)), strict=True):
            found = store.Rows(
                keys=[f"k{row}" for row in rows],
                labels=[[NAMES[label] for label in np.flatnonzero(features.values[row] == 1)] for row in rows],
                unknown=[[] for _ in rows],
                global_=features.global_[rows],
                local=features.local[rows],
                length=features.length[rows],
            )
            path = layout.directory(unit) / f"part-{piece}.parquet"
            store.write(path, [found], {"identity": unit.settings["model_identity"]})

    @staticmethod
    def _verify(layout: Layout, unit: Unit) -> None:
        """Scores that tell carriers from others more often than not."""
        count = SOURCES["synthetic"][0]
        targets = separable(count, len(NAMES), list(SOURCES).index("synthetic")).values
        scores = (targets + np.random.default_rng(5).normal(size=targets.shape)).astype(np.float32)
        for piece, rows in zip(unit.pieces, np.array_split(np.arange(count), len(unit.pieces)), strict=True):
            labels = [[NAMES[label] for label in np.flatnonzero(targets[row] == 1)] for row in rows]
            found = verifications.Scores([f"k{row}" for row in rows], labels, scores[rows], {"labels": list(NAMES)})
            verifications.write(layout.directory(unit) / f"part-{piece}.parquet", found)


@pytest.fixture
def run(tmp_path: Path, clip: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A run of its own whose backbone is the tiny CLIP."""
    monkeypatch.setattr(backbones, "load", lambda settings, device: tiny_backbone(clip, device))
    yield Run(tmp_path)


@pytest.fixture(scope="session")
def saved_without() -> Callable[[Any, str], tuple[dict[str, Any], dict[str, torch.Tensor]]]:
    """Description and tensors of a head without one entry of either."""

    def without(head: Any, missing: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        description, tensors = head.description(), head.tensors()
        del (tensors if missing in tensors else description)[missing]
        return description, tensors

    return without
