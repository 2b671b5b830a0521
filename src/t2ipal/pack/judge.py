"""A classifier trained apart, on real single-object scenes: it says what the generator's images show."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from t2ipal.openmoji.drawings import class_names
from t2ipal.openmoji.scenes import SIMPLE_STYLE, Pixels, render, sample_scene
from t2ipal.pack.autoencoder import to_signed
from t2ipal.pack.sittings import Trainee


def single_object(rng: np.random.Generator, count: int) -> tuple[list[Pixels], Tensor]:
    """Scenes of the generator's world with one drawing each, and the index of its class."""
    names = class_names()
    classes = rng.integers(len(names), size=count)
    images = [render(sample_scene(rng, "train", SIMPLE_STYLE, classes=[names[index]])) for index in classes]
    return images, torch.from_numpy(classes)


class JudgeTrainee(Trainee):
    """Cross-entropy over the 20 classes."""

    name = "judge"
    batch = 64
    learning_rate = 2e-3
    weight_decay = 0.05
    warmup = 50
    average = 0.99

    def __init__(self) -> None:
        from open_clip.modified_resnet import ModifiedResNet

        torch.manual_seed(1)
        network = ModifiedResNet([1, 1, 1, 1], output_dim=len(class_names()), heads=16, image_size=64, width=16)
        self.module = network.to(memory_format=torch.channels_last)

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """See the class."""
        images, classes = single_object(rng, self.batch)
        return functional.cross_entropy(self.module(to_signed(images)), classes), {}

    @torch.inference_mode()
    def measure(self) -> dict[str, float]:
        """Accuracy on fresh scenes of the same drawings."""
        images, classes = single_object(np.random.default_rng(7), 400)
        return {"top1": float((self.module(to_signed(images)).argmax(1) == classes).float().mean())}
