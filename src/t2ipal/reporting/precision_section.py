"""The report's section of precision over recall, a small chart for each class."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from t2ipal.evaluation import metrics
from t2ipal.evaluation.scores import read
from t2ipal.reporting.curves import line_styles
from t2ipal.reporting.section import Section

HEAD = ("precision", "Precision and recall", "precision.html.j2")
# Pixels of a chart and of the margin for its axes; points of a line; charts that are unfolded.
SIDE, MARGIN, POINTS, OPEN_CHARTS = 150, 26, 64, 24
# Read on white and on black.
_AXIS = "#808790"
_BLACK = "#000000"


@dataclass(frozen=True)
class Chart:
    """The lines of one class as a ``data:`` URI, and the same in words."""

    name: str
    picture: str
    words: str


@dataclass(frozen=True)
class Key:
    """A method and the colour of its lines."""

    method: str
    colour: str


def curve(scores: NDArray[np.floating], targets: NDArray[np.integer]) -> NDArray[np.float64]:
    """Recall and precision [T, 2] at the distinct scores of one class, [N] each, from high to low.

    At most ``POINTS``; of neighbours that are left out the line shows nothing of note at this size.
    """
    true, retrieved = metrics.retrieved_counts(scores, targets)
    if not len(true) or not true[-1]:
        return np.empty((0, 2))
    points = np.stack([true / true[-1], true / retrieved], axis=1)
    # Along recall, so that the many thresholds of a long tail do not crowd out the steep beginning.
    wanted = np.searchsorted(points[:, 0], np.linspace(0, 1, POINTS))
    return points[np.unique(np.clip(wanted, 0, len(points) - 1))]


def _line(points: NDArray[np.float64], colour: str) -> str:
    across, up = MARGIN + points[:, 0] * SIDE, 4 + (1 - points[:, 1]) * SIDE
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, up, strict=True))
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6" stroke-linejoin="round"/>'


def _drawing(lines: Sequence[tuple[NDArray[np.float64], str]]) -> str:
    bottom, right = SIDE + 4, MARGIN + SIDE
    text = f'font-family="sans-serif" font-size="9" fill="{_AXIS}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right + 6} {bottom + 16}">',
        f'<path d="M{MARGIN} 4V{bottom}H{right}" fill="none" stroke="{_AXIS}"/>',
        f'<path d="M{MARGIN} {4 + SIDE / 2}H{right}" stroke="{_AXIS}" stroke-dasharray="2 4" opacity="0.6"/>',
        *(f'<text x="{MARGIN - 4}" y="{y}" text-anchor="end" {text}>{n}</text>' for y, n in ((10, 100), (bottom, 0))),
        f'<text x="{MARGIN - 4}" y="{8 + SIDE / 2}" text-anchor="end" {text}>50</text>',
        f'<text x="{MARGIN}" y="{bottom + 12}" {text}>0</text>',
        f'<text x="{right}" y="{bottom + 12}" text-anchor="end" {text}>recall 100</text>',
        *(_line(points, escape(colour)) for points, colour in lines if len(points)),
        "</svg>",
    ]
    return "data:image/svg+xml;base64," + base64.b64encode("".join(parts).encode()).decode("ascii")


def _words(name: str, values: Mapping[str, float | None]) -> str:
    known = [f"{method} {100 * value:.1f}" for method, value in values.items() if value is not None]
    return f"Precision over recall for class {name}. Average precision: {', '.join(known)}"


def precision_section(paths: Mapping[str, Path], seed: int) -> Section:
    """A chart for each class that has a positive test image, with a line for each method.

    Args:
        paths: ``scores.parquet`` of each method, in the order of the table; all on the same images.
        seed: the one that they are of.

    Raises:
        UserError: a file is damaged.
    """
    missing = next((path for path in paths.values() if not path.is_file()), None)
    if missing is not None:
        return Section(*HEAD, {}, f"The scores are not there: {missing} is missing.")
    found = {method: read(path) for method, path in paths.items()}
    first = next(iter(found.values()))
    colours = {method: colour.replace(_BLACK, _AXIS) for method, (colour, _) in line_styles(list(found)).items()}
    charts = []
    for name in sorted(name for column, name in enumerate(first.names) if (first.targets[:, column] == 1).any()):
        lines, values = [], {}
        for method, scores in found.items():
            column = scores.names.index(name)
            lines.append((curve(scores.values[:, column], scores.targets[:, column]), colours[method]))
            values[method] = metrics.average_precision(scores.values[:, column], scores.targets[:, column])
        charts.append(Chart(name, _drawing(lines), _words(name, values)))
    content = {
        "seed": seed,
        "open": charts[:OPEN_CHARTS],
        "folded": charts[OPEN_CHARTS:],
        "legend": [Key(method, colour) for method, colour in colours.items()],
        "width": SIDE + MARGIN + 6,
        "height": SIDE + 20,
    }
    return Section(*HEAD, content, None if charts else "No label of these images is known, so there is no curve.")
