"""The report's section on what images teach beyond captions, class by class."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from t2ipal.reporting.section import Section

HEAD = ("gain", "What images add to captions", "gain.html.j2")
TEXT, IMAGES = "tai-dpt", "t2i-pal"


@dataclass(frozen=True)
class Gain:
    """A class: average precision after captions alone and after images; means over seeds, fractions of 1."""

    name: str
    text: float
    images: float

    @property
    def points(self) -> float:
        """Percentage points that images are ahead."""
        return 100 * (self.images - self.text)


def gain_section(precisions: Mapping[str, Mapping[str, float | None]]) -> Section:
    """Classes by how far learning from images is ahead of learning from captions.

    Args:
        precisions: average precision of each method and class, mean over seeds; None for a class without a positive.
    """
    missing = [method for method in (TEXT, IMAGES) if method not in precisions]
    if missing:
        return Section(*HEAD, {}, f"Method {missing[0]}, which would be compared here, is not part of this run.")
    found = _gains(precisions[TEXT], precisions[IMAGES])
    if not found:
        return Section(*HEAD, {}, "No label of these images is known, so nothing can be compared.")
    content = {
        "gains": found,
        "scale": max(max(abs(gain.points) for gain in found), 1e-9),
        "ahead": sum(gain.points > 0 for gain in found),
        "mean": statistics.fmean(gain.points for gain in found),
        "text": TEXT,
        "images": IMAGES,
    }
    return Section(*HEAD, content)


def _gains(text: Mapping[str, float | None], images: Mapping[str, float | None]) -> Sequence[Gain]:
    pairs = ((name, text.get(name), images[name]) for name in images)
    gains = [Gain(name, before, after) for name, before, after in pairs if before is not None and after is not None]
    return sorted(gains, key=lambda gain: (-gain.points, gain.name))
