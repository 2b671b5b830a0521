"""The quality gate: an image that is NaN, blanked, black or constant is drawn again, and never dropped in silence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from t2ipal.synthesis.plan import Sample

Fault = Literal["nan", "blanked", "black", "constant"]
FAULTS: tuple[Fault, ...] = ("nan", "blanked", "black", "constant")
# Values that differ by less than one and a half of the 256 levels look the same.
TOLERANCE = 1.5 / 255

FloatImage = np.ndarray[Any, np.dtype[np.float32]]
ByteImage = np.ndarray[Any, np.dtype[np.uint8]]


class Tried:
    """The attempt that gave an image, and what was wrong with each attempt that was not good."""

    attempt: int
    faults: tuple[Fault, ...]

    @property
    def failed(self) -> bool:
        """True when the last attempt was no good either."""
        return len(self.faults) > self.attempt


@dataclass(frozen=True)
class Drawn(Tried):
    """The image that was kept."""

    image: ByteImage
    attempt: int
    faults: tuple[Fault, ...]


def fault(image: FloatImage, blanked: bool = False) -> Fault | None:
    """What is wrong with a float image [H, W, 3] in 0..1; None when nothing is.

    The image must come before rounding to bytes, which would turn NaN into black. ``blanked`` says that the model's
    safety checker refused it.
    """
    if not np.isfinite(image).all():
        return "nan"
    if blanked:
        return "blanked"
    if image.max() < TOLERANCE:
        return "black"
    if np.ptp(image, axis=(0, 1)).max() < TOLERANCE:
        return "constant"
    return None


def to_bytes(image: FloatImage) -> ByteImage:
    """[H, W, 3] float in 0..1 -> uint8; NaN and infinities become 0."""
    finite = np.where(np.isfinite(image), image, 0)
    return np.asarray((finite.clip(0, 1) * 255).round(), dtype=np.uint8)


class Gate:
    """The images of one batch, each until it is good or has had its last attempt.

    ``while gate.pending: gate.judge(...)`` what ``gate.request()`` asks for; then ``gate.drawn()``. An image that is at
    fault to the last is kept as it is, with ``failed`` set.
    """

    def __init__(self, samples: Sequence[Sample], base_seed: int, redraws: int) -> None:
        self.samples, self.base_seed, self.redraws = samples, base_seed, redraws
        self.attempt = 0
        self.pending = list(range(len(samples)))
        self._faults: list[tuple[Fault, ...]] = [()] * len(samples)
        self._drawn: dict[int, Drawn] = {}

    def request(self) -> tuple[list[str], list[int]]:
        """Prompts and seeds of the images to draw next, together."""
        samples = [self.samples[index] for index in self.pending]
        seeds = [sample.seed(self.attempt, self.base_seed) for sample in samples]
        return [sample.caption.text for sample in samples], seeds

    def judge(self, images: Sequence[FloatImage], blanked: Sequence[bool]) -> None:
        """Take the images that were requested, in that order, and what the safety checker said of each."""
        for index, image, refused in zip(self.pending, images, blanked, strict=True):
            found = fault(image, refused)
            if found is not None:
                self._faults[index] += (found,)
            if found is None or self.attempt == self.redraws:
                self._drawn[index] = Drawn(to_bytes(image), self.attempt, self._faults[index])
        self.pending = [index for index in self.pending if index not in self._drawn]
        self.attempt += 1

    def drawn(self) -> list[Drawn]:
        """The images of the batch in the order of its samples, once none is pending."""
        return [self._drawn[index] for index in range(len(self.samples))]
