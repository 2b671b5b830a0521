"""A tiny random CLIP, a word tokenizer, and features that can be told apart by class."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

CONTEXT_LENGTH = 20
WORDS = [
    *("<pad>", "a", "an", "photo", "picture", "of", "the", "big", "small"),
    *("dog", "cat", "dining", "table", "bus", "potted", "plant", "sofa"),
]
START, END = 17, 18


def tokenize(texts: list[str]) -> torch.Tensor:
    """[N, 20] ids: start, one per word, end, zero padding."""
    ids = torch.zeros(len(texts), CONTEXT_LENGTH, dtype=torch.long)
    for row, text in enumerate(texts):
        found = [START, *(WORDS.index(word) for word in text.split()), END]
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
    return SimpleNamespace(clip=tiny_clip, tokenize=tokenize, separable=separable, context_length=CONTEXT_LENGTH)
