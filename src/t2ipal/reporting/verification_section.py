"""The report's section on how well synthetic images show what their captions say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from t2ipal.reporting.section import Section
from t2ipal.verification.store import Scores, read

HEAD = ("verification", "Labels that survive", "verification.html.j2")


@dataclass(frozen=True)
class Line:
    """A class: the images asked to show it, the share of them that pass the threshold, their median presence."""

    name: str
    asked: int
    share: float | None
    median: float | None


def lines(scores: Scores, least: float) -> list[Line]:
    """One line per class, in the order of the label set; a class that no image was asked for has no numbers."""
    presence, targets = scores.presence(), scores.targets
    found = []
    for label, name in enumerate(scores.classes):
        asked = presence[targets[:, label] == 1, label]
        numbers = (float((asked >= least).mean()), float(np.median(asked))) if len(asked) else (None, None)
        found.append(Line(name, len(asked), *numbers))
    return found


def surviving_images(scores: Scores, least: float) -> int:
    """The images whose every label has at least the presence ``least``."""
    return int((~((scores.targets == 1) & (scores.presence() < least)).any(axis=1)).sum())


def surviving_labels_section(paths: Sequence[Path], seed: int, least: float) -> Section:
    """How many labels of a seed's synthetic images are borne out, by class.

    Args:
        paths: all parts of the seed's verification; if one does not exist, the section says so.
        seed: the seed.
        least: the presence from which a label counts as borne out.

    Raises:
        UserError: a part is damaged.
    """
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        return Section(
            *HEAD,
            {},
            f"The synthetic images of seed {seed} are not verified: {missing} is missing. No method needs it whose "
            "labels are hard; `snakemake verification_all` makes it.",
        )
    scores = read(paths)
    content = {
        "lines": lines(scores, least),
        "images": len(scores.keys),
        "surviving": surviving_images(scores, least),
        "least": least,
        "seed": seed,
        "backbone": scores.meta["backbone"],
        "warning": scores.meta["warning"],
    }
    return Section(*HEAD, content)
