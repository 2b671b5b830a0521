"""The embedded benchmark: scenes of OpenMoji drawings, rendered when asked for, the same ones on every machine."""

from __future__ import annotations

import numpy as np
from PIL import Image

from t2ipal.benchmarks.base import Benchmark, ImageSplit
from t2ipal.labels import LabelSet
from t2ipal.openmoji import sprites
from t2ipal.openmoji.drawings import SPLITS, Split, check_drawn, class_drawings, distractors
from t2ipal.openmoji.scenes import Scene, render, sample_scene
from t2ipal.settings.benchmarks import RENDERED

VERSION = 1
# Distinct streams of random numbers, so that no split repeats a scene of another one or of the pack's training.
_STREAM = {"train": 101, "val": 102, "test": 103}


class OpenMojiBenchmark(Benchmark):
    """20 VOC classes in 64x64 scenes of one to four labelled drawings; all labels are known."""

    attribution = "Drawings by OpenMoji (openmoji.org), CC BY-SA 4.0."

    def count(self, split: str) -> int:
        """Scenes of a split."""
        return self.settings.images(split) or RENDERED[split]

    def split(self, name: str) -> ImageSplit:
        """The ``train``, ``val`` or ``test`` scenes.

        Raises:
            UserError: the label set has a class without a drawing.
            MissingDrawingError: a drawing is not in the installed package.
        """
        chosen = next(split for split in SPLITS if split == name)
        names = LabelSet.load(self.settings.labels).names
        check_drawn(names)
        sprites.check([*(d for group in class_drawings(chosen).values() for d in group), *distractors(chosen)])
        scenes = [self._scene(chosen, index) for index in range(self.count(chosen))]
        return ImageSplit(
            keys=[f"{name}-{index:06d}" for index in range(len(scenes))],
            labels=[sorted(scene.labels() & set(names)) for scene in scenes],
            unknown=[[] for _ in scenes],
            image=lambda index: Image.fromarray(render(scenes[index])),
            protocol=f"openmoji-v{VERSION}/{name}-{len(scenes)}",
        )

    @staticmethod
    def _scene(split: Split, index: int) -> Scene:
        return sample_scene(np.random.default_rng([_STREAM[split], index]), split)
