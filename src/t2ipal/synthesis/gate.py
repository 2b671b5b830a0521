"""The quality gate: an image that is NaN, black or constant is drawn again, and never dropped in silence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from t2ipal.synthesis.plan import Sample

Fault = Literal["nan", "black", "constant"]
FAULTS: tuple[Fault, ...] = ("nan", "black", "constant")
# Values that differ by less than one and a half of the 256 levels look the same.
TOLERANCE = 1.5 / 255

FloatImage = np.ndarray[Any, np.dtype[np.float32]]
ByteImage = np.ndarray[Any, np.dtype[np.uint8]]
# Prompts and seeds, N each -> N float images [H, W, 3] in 0..1.
Draw = Callable[[list[str], list[int]], Sequence[FloatImage]]


@dataclass(frozen=True)
class Drawn:
    """The image that was kept, the attempt that gave it, and what was wrong with each attempt that was not good."""

    image: ByteImage
    attempt: int
    faults: tuple[Fault, ...]

    @property
    def failed(self) -> bool:
        """True when the last attempt was no good either."""
        return len(self.faults) > self.attempt


def fault(image: FloatImage) -> Fault | None:
    """What is wrong with a float image [H, W, 3] in 0..1; None when nothing is.

    The image must come before rounding to bytes, which would turn NaN into black.
    """
    if not np.isfinite(image).all():
        return "nan"
    if image.max() < TOLERANCE:
        return "black"
    if np.ptp(image, axis=(0, 1)).max() < TOLERANCE:
        return "constant"
    return None


def to_bytes(image: FloatImage) -> ByteImage:
    """[H, W, 3] float in 0..1 -> uint8; NaN and infinities become 0."""
    finite = np.where(np.isfinite(image), image, 0)
    return np.asarray((finite.clip(0, 1) * 255).round(), dtype=np.uint8)


def draw_batch(draw: Draw, samples: Sequence[Sample], base_seed: int, redraws: int) -> list[Drawn]:
    """Draw ``samples`` together; draw those at fault again, together, at most ``redraws`` times.

    An image that is at fault to the last is returned as it is, with ``failed`` set.
    """
    done: dict[int, Drawn] = {}
    faults: list[tuple[Fault, ...]] = [()] * len(samples)
    pending = list(range(len(samples)))
    for attempt in range(redraws + 1):
        images = draw(
            [samples[i].caption.text for i in pending], [samples[i].seed(attempt, base_seed) for i in pending]
        )
        for i, image in zip(pending, images, strict=True):
            found = fault(image)
            if found is not None:
                faults[i] += (found,)
            if found is None or attempt == redraws:
                done[i] = Drawn(to_bytes(image), attempt, faults[i])
        pending = [i for i in pending if i not in done]
        if not pending:
            break
    return [done[i] for i in range(len(samples))]
