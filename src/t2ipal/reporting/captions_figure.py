"""Which classes captions name together, as a heat map (SVG)."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count, pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from t2ipal.reporting.table import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# For few classes and for many: inches of a row and column, points of a name, CSS pixels per inch of the whole.
_FEW, _MANY = (0.3, 8.0, 105), (0.115, 6.0, 110)
# With up to so many classes every number is written into its cell.
NUMBERED = 24
_NAME = 20
# Inches of a key of the legend.
_KEY = 0.7
_SELF, _EDGE = "#d4d4d4", "#8a8a8a"
# Equal input gives equal bytes: no date, no random ids.
_SETTINGS = {"svg.hashsalt": "t2ipal", "svg.fonttype": "none", "text.parse_math": False, "hatch.linewidth": 0.4}


def matrix(pairs: Mapping[str, Mapping[str, int]], names: Sequence[str]) -> NDArray[np.int64]:
    """Symmetric [C, C]: how many captions name both classes; 0 on the diagonal.

    Args:
        pairs: each pair of classes once, as the manifest of the captions has them.
        names: the classes, in the order of rows and columns.

    Raises:
        KeyError: a pair has a class that is none of ``names``.
    """
    place = {name: index for index, name in enumerate(names)}
    found = np.zeros((len(names), len(names)), dtype=np.int64)
    for one, beside in pairs.items():
        for other, number in beside.items():
            found[place[one], place[other]] += number
            found[place[other], place[one]] += number
    return found


def steps(largest: int) -> list[int]:
    """Where the colours change: 1, 2, 5, 10 and so on up to ``largest`` (1, 3, 10 if in thousands), then one above."""
    factors = (1, 2, 5) if largest < 1000 else (1, 3)
    series = (factor * 10**power for power in count() for factor in factors)
    bounds = []
    for bound in series:
        if bound > max(largest, 1):
            break
        bounds.append(bound)
    return [*bounds, max(largest, 1) + 1]


def _ranges(bounds: Sequence[int]) -> list[str]:
    """The numbers that each colour stands for, as text."""
    return [str(low) if high == low + 1 else f"{low}–{high - 1}" for low, high in pairwise(bounds)]


def _printable(name: str) -> str:
    """A name without what XML cannot hold."""
    return shortened("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name), _NAME)


@contextmanager
def _plain_style() -> Iterator[None]:
    """The default style: neither ``matplotlibrc`` nor a display plays a part."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def draw_pairs(numbers: NDArray[np.int64], names: Sequence[str]) -> tuple[str, tuple[int, int]]:
    """The heat map of ``numbers`` [C, C] as an SVG, and its width and height in CSS pixels, so that it can be read.

    Darker is more often, in steps; white is never; the diagonal is hatched. Every number is in its cell where there
    are at most ``NUMBERED`` classes.
    """
    cell, points, scale = _FEW if len(names) <= NUMBERED else _MANY
    labels = [_printable(name) for name in names]
    bounds = steps(int(numbers.max(initial=0)))
    beside = 0.15 + max(map(len, labels)) * points * 0.58 / 72
    side = max(cell * len(names), 2.4)
    columns = min(int(side / _KEY), len(bounds))
    below = 0.2 + 0.25 * -(-len(bounds) // columns)
    size = (side + beside + 0.2, side + beside + below)
    with _plain_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=size)
        axes = figure.add_axes((beside / size[0], below / size[1], side / size[0], side / size[1]))
        _cells(axes, numbers, bounds, points)
        _axes(axes, labels, points)
        _legend(axes, bounds, columns, points)
        return _rendered(figure), (round(size[0] * scale), round(size[1] * scale))


def _cells(axes: Axes, numbers: NDArray[np.int64], bounds: Sequence[int], points: float) -> None:
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Rectangle

    colours = _colours(len(bounds))
    norm = BoundaryNorm([0, *bounds], len(bounds))
    axes.imshow(numbers, cmap=ListedColormap(colours), norm=norm, interpolation="nearest")
    for index in range(len(numbers)):
        axes.add_patch(
            Rectangle((index - 0.5, index - 0.5), 1, 1, facecolor=_SELF, hatch="////", edgecolor=_EDGE, linewidth=0)
        )
    if len(numbers) <= NUMBERED:
        for row, column in np.argwhere(numbers > 0):
            value = int(numbers[row, column])
            text = str(value) if value < 10_000 else f"{value // 1000}k"
            colour = _ink(colours[int(norm(value))])
            axes.text(column, row, text, ha="center", va="center", fontsize=points - 1.5, color=colour)


def _colours(number: int) -> list[str]:
    """White, then pale to dark blue, even in lightness, which reads in grey and for the colour-blind too."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    places = np.linspace(0.2, 1.0, number - 1) if number > 2 else [0.55]
    return ["#ffffff", *(to_hex(colormaps["Blues"](place)) for place in places)]


def _ink(ground: str) -> str:
    """Black or white, whichever stands out more (WCAG's relative luminance)."""
    from matplotlib.colors import to_rgb

    channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(ground)]
    luminance = sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), channels, strict=True))
    return "black" if luminance > 0.179 else "white"


def _legend(axes: Axes, bounds: Sequence[int], columns: int, points: float) -> None:
    from matplotlib.patches import Rectangle

    axes.legend(
        [Rectangle((0, 0), 1, 1, facecolor=c, edgecolor=_EDGE, linewidth=0.5) for c in _colours(len(bounds))],
        ["0", *_ranges(bounds)],
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        ncols=columns,
        frameon=False,
        fontsize=points,
        handlelength=1,
        handletextpad=0.4,
        columnspacing=0.9,
    )


def _axes(axes: Axes, labels: Sequence[str], points: float) -> None:
    places = range(len(labels))
    axes.set_xticks(places, labels, rotation=90, fontsize=points)
    axes.set_yticks(places, labels, fontsize=points)
    axes.tick_params(length=0, pad=2, top=True, labeltop=True, bottom=False, labelbottom=False)
    edges = [index - 0.5 for index in range(1, len(labels))]
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.tick_params(which="minor", length=0)
    axes.grid(which="minor", color="#c9c9c9", linewidth=0.4)
    axes.spines[:].set(color=_EDGE, linewidth=0.5)


def _rendered(figure: Figure) -> str:
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Letters that matplotlib's font lacks are drawn by the reader's.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(buffer, format="svg", dpi=200, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
