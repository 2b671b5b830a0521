"""The figure of a study or table as an SVG: mAP with its spread over seeds."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from numbers import Real
from typing import TYPE_CHECKING, Any

from t2ipal.experiments import Experiment
from t2ipal.reporting.records import Row
from t2ipal.reporting.table import averaged, percent, point_text, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRIC = "mAP"
WIDTH, STUDY_HEIGHT, LINE_HEIGHT = 8.0, 3.8, 0.26
# Characters of a line above a panel, and of all labels of an axis together, that fit side by side.
NOTE_CHARACTERS, AXIS_CHARACTERS = 76, 62
# Okabe and Ito's colours, told apart by colour-blind readers too; markers say the same without colour.
STYLES = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#56B4E9", "v"),
    ("#E69F00", "P"),
    ("#000000", "X"),
)
# What is often shown looks the same in every figure; a source of training data like the method it is known from.
PREFERRED: Mapping[str, int] = {
    "t2i-pal-prompts": 0,
    "few-shot-prompts": 0,
    "dualcoop": 0,
    "nothing (zero-shot), transductive": 0,
    "t2i-pal": 1,
    "synthetic images": 1,
    "tai-dpt": 2,
    "captions": 2,
    "few-shot-tip-adapter-f": 2,
    "oracle": 3,
    "real training images": 3,
    "mixed-prompts": 4,
    "captions + synthetic images": 4,
    "t2i-pal-prototypes": 4,
    "t2i-pal-filtered": 4,
    "few-shot-t2i-pal": 5,
    "t2i-pal-soft": 5,
    "dualcoop+t2i-pal": 5,
    "synthetic + real images": 5,
    "zero-shot-local": 6,
    "nothing (zero-shot)": 6,
}
# Equal input gives equal bytes: no date, no random ids.
SETTINGS = {
    "svg.hashsalt": "t2ipal",
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "text.parse_math": False,
}
_UNPRINTABLE = re.compile("[^\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def draw(experiment: Experiment, rows: Sequence[Row]) -> str:
    """An SVG of the experiment: curves over its axis, or for a table a panel of each backbone and protocol.

    Args:
        experiment: gives title and axis.
        rows: its rows of all metrics; what is drawn is mAP, with one standard deviation to both sides.
    """
    shown = [_printable(row) for row in rows if row.metric == METRIC]
    with _plain_style():
        from matplotlib.figure import Figure

        height = STUDY_HEIGHT if experiment.label is not None else _table_height(shown)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        figure.suptitle(experiment.title, x=0.01, ha="left", fontsize=12)
        if experiment.label is not None:
            _study(figure, experiment, shown)
        else:
            _table(figure, shown)
        return _rendered(figure, experiment.title)


@contextmanager
def _plain_style() -> Iterator[None]:
    """The default style: neither ``matplotlibrc`` nor a display plays a part."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield


def _rendered(figure: Figure, title: str) -> str:
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Letters that matplotlib's font lacks are drawn by the reader's.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    return buffer.getvalue()


def _printable(row: Row) -> Row:
    """The row with a sign in place of each character that XML cannot hold or that would break a line."""

    def text(value: Any) -> Any:
        return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value) if isinstance(value, str) else value

    return replace(
        row,
        method=text(row.method),
        backbone=text(row.backbone),
        protocol=text(row.protocol),
        point=text(row.point),
    )


def line_styles(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each name: the preferred one or the next that is free, as long as there is one."""
    found: dict[str, int] = {}
    for name in names:
        wish = PREFERRED.get(name, 0)
        order = [*range(wish, len(STYLES)), *range(wish)]
        found[name] = next((place for place in order if place not in found.values()), len(found) % len(STYLES))
    return {name: STYLES[place] for name, place in found.items()}


def _even(points: Sequence[Any], numeric: bool) -> dict[Any, float]:
    return {point: float(place) for place, point in enumerate(sorted(points) if numeric else points)}


def _places(points: Sequence[Any], log: bool) -> tuple[dict[Any, float], bool]:
    """Where each point stands on the axis, and whether points are several numbers rather than names.

    Numbers stand evenly, in their order, where their labels would overlap otherwise.
    """
    numeric = len(points) > 1 and all(isinstance(point, Real) for point in points)
    if not numeric:
        return _even(points, numeric), numeric
    scaled = {point: math.log2(point) if log and min(points) > 0 else float(point) for point in points}
    ordered = sorted(scaled.values())
    narrowest = min(after - before for before, after in pairwise(ordered))
    needed = (max(len(point_text(point)) for point in points) + 1) / AXIS_CHARACTERS
    return (scaled if narrowest >= needed * (ordered[-1] - ordered[0]) else _even(points, numeric)), numeric


def _study(figure: Figure, experiment: Experiment, rows: Sequence[Row]) -> None:
    axes = figure.subplots()
    own = [row for row in rows if row.point is not None]
    references = [row for row in rows if row.point is None]
    styles = line_styles(list(dict.fromkeys(row.method for row in (*own, *references))))
    points = list(dict.fromkeys(row.point for row in own))
    places, numeric = _places(points, experiment.log)
    for method in dict.fromkeys(row.method for row in own):
        line = sorted((row for row in own if row.method == method), key=lambda row: places[row.point])
        across = [places[row.point] + (0 if numeric else _aside(row, own)) for row in line]
        _errorbar(axes, across, line, styles[method], linestyle="-" if numeric else "none", label=method)
    for row in references:
        _reference(axes, row, styles[row.method][0])
    _label_axis(axes, places, numeric)
    axes.set_xlabel(experiment.label or "")
    axes.set_ylabel(f"{METRIC} (%)")
    axes.set_title(_note(rows), color="#555555")
    axes.grid(axis="y", linewidth=0.4, alpha=0.5)
    # From top to bottom as at the right edge of the axes.
    last = {row.method: row.mean for row in (*own, *references)}
    keys = sorted(zip(*axes.get_legend_handles_labels(), strict=True), key=lambda key: -last[key[1]])
    if keys:
        handles, labels = zip(*keys, strict=True)
        figure.legend(handles, [shortened(label) for label in labels], loc="outside right center")


def _aside(row: Row, rows: Sequence[Row]) -> float:
    """How far aside a row stands from its name's place, so that methods at the same name stay apart."""
    together = list(dict.fromkeys(other.method for other in rows if other.point == row.point))
    return 0.14 * (together.index(row.method) - (len(together) - 1) / 2)


def _errorbar(axes: Axes, across: Sequence[float], rows: Sequence[Row], style: tuple[str, str], **options: Any) -> None:
    colour, marker = style
    up, spread = [100 * row.mean for row in rows], [100 * row.sd for row in rows]
    axes.errorbar(across, up, spread, color=colour, marker=marker, markersize=5, elinewidth=1, capsize=3, **options)


def _reference(axes: Axes, row: Row, colour: str) -> None:
    axes.axhline(100 * row.mean, color=colour, linestyle="--", linewidth=1.2, label=row.method, zorder=1)
    if row.sd:
        axes.axhspan(100 * (row.mean - row.sd), 100 * (row.mean + row.sd), color=colour, alpha=0.12, linewidth=0)


def _label_axis(axes: Axes, places: Mapping[Any, float], numeric: bool) -> None:
    labels = [shortened(point_text(point)) for point in places]
    crowded = (max(map(len, labels), default=0) + 1) * len(labels) > AXIS_CHARACTERS
    axes.set_xticks(list(places.values()), labels, rotation=30 if crowded else 0, ha="right" if crowded else "center")
    if places and not numeric:
        axes.set_xlim(-0.5, len(places) - 0.5)


def _note(rows: Sequence[Row]) -> str:
    protocols = ", ".join(dict.fromkeys(row.protocol for row in rows))
    return shortened(f"{averaged(rows[0].seeds)}; protocol {protocols}" if rows else "no values", NOTE_CHARACTERS)


def _panels(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that may be compared: of one benchmark, backbone and protocol."""
    panels: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        panels.setdefault((row.benchmark, row.backbone, row.protocol), []).append(row)
    return list(panels.values())


def _table_height(rows: Sequence[Row]) -> float:
    return 1.6 + LINE_HEIGHT * len(rows) + 0.45 * len(_panels(rows))


def _table(figure: Figure, rows: Sequence[Row]) -> None:
    panels = _panels(rows)
    sizes = [len(panel) for panel in panels]
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=sizes)[:, 0]
    styles = line_styles(list(dict.fromkeys(row.trained_on for row in rows)))
    for axes, panel in zip(grid, panels, strict=True):
        _panel(axes, panel, styles)
    grid[-1].set_xlabel(f"{METRIC} (%)")
    handles, labels = _unlike([axes.get_legend_handles_labels() for axes in grid])
    figure.legend(handles, labels, loc="outside lower center", ncols=3, title="trained on", title_fontsize=9)


def _unlike(keys: Sequence[tuple[list[Any], list[str]]]) -> tuple[list[Any], list[str]]:
    """The legend keys of all panels, each label once."""
    found = {label: handle for handles, labels in keys for handle, label in zip(handles, labels, strict=True)}
    return list(found.values()), list(found)


def _panel(axes: Axes, rows: Sequence[Row], styles: Mapping[str, tuple[str, str]]) -> None:
    for place, row in enumerate(rows):
        colour, marker = styles[row.trained_on]
        axes.errorbar(
            [100 * row.mean],
            [place],
            xerr=[100 * row.sd],
            color=colour,
            marker=marker,
            markersize=5,
            linestyle="none",
            capsize=3,
            label=row.trained_on,
        )
        axes.annotate(
            percent(row),
            (1, place),
            (6, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=8,
            annotation_clip=False,
        )
    axes.set_yticks(range(len(rows)), [shortened(row.method) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(linewidth=0.4, alpha=0.5)
    axes.set_title(f"{shortened(rows[0].backbone, NOTE_CHARACTERS)}\n{_note(rows)}", color="#555555")
