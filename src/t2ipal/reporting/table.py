"""The results table: its columns, its numbers as text, and its plain-text form for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from t2ipal.reporting.records import Row

WIDTH = 100
NAME_WIDTH = 30
# On the terminal every column counts, so the headings are shorter there.
TERMINAL_METRICS = {"mAP": "mAP", "CF1_top3": "CF1 top-3", "CF1": "CF1 calib."}
TITLES = {
    "mAP": "mAP",
    "mAP_voc11": "mAP, VOC 11-point",
    "CF1_top3": "CF1 top-3",
    "OF1_top3": "OF1 top-3",
    "CF1": "CF1 calibrated",
    "OF1": "OF1 calibrated",
    "CP": "CP calibrated",
    "CR": "CR calibrated",
    "OP": "OP calibrated",
    "OR": "OR calibrated",
    "ECE": "ECE",
}
# Of the images, not of a method: a line below the table.
CHANCE = "mAP_chance"
_GAP = "  "


@dataclass(frozen=True)
class Line:
    """One method of a table: the text of its cells."""

    method: str
    trained_on: str
    values: dict[str, str]
    seeds: str


@dataclass(frozen=True)
class Table:
    """Methods that may be compared: one benchmark, backbone and protocol."""

    benchmark: str
    backbone: str
    protocol: str
    metrics: tuple[str, ...]
    lines: tuple[Line, ...]
    chance: str | None = None

    @property
    def note(self) -> str | None:
        """What numbers are to be seen beside."""
        return self.chance and f"a random order of the images is expected to have mAP {self.chance}"


def title(metric: str) -> str:
    """A metric's heading."""
    return TITLES.get(metric, metric.replace("_", " "))


def percent(row: Row) -> str:
    """``45.12 ± 0.34``, in percent; without the spread when there is one seed only."""
    mean = f"{100 * row.mean:.2f}"
    return f"{mean} ± {100 * row.sd:.2f}" if len(row.seeds) > 1 else mean


def _seeds(row: Row) -> str:
    if row.trained_on.startswith("nothing"):
        return "any"
    listed = ", ".join(map(str, row.seeds))
    return listed if len(listed) <= 12 else f"{len(row.seeds)} seeds"


def averaged(seeds: Sequence[int]) -> str:
    """What numbers of these seeds are: a mean with its spread, or a single value."""
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    listed = f"seeds {', '.join(map(str, seeds))}"
    return f"mean ± sd over {listed if len(listed) <= 30 else f'{len(seeds)} seeds'}"


def _line(method: str, rows: Sequence[Row]) -> Line:
    return Line(method, rows[0].trained_on, {row.metric: percent(row) for row in rows}, _seeds(rows[0]))


def _table(key: tuple[str, str, str], rows: Sequence[Row]) -> Table:
    known = {row.metric for row in rows} - {CHANCE}
    metrics = [metric for metric in TITLES if metric in known] + sorted(known - set(TITLES))
    methods = dict.fromkeys(row.method for row in rows)
    lines = tuple(_line(method, [row for row in rows if row.method == method]) for method in methods)
    chance = next((f"{100 * row.mean:.2f}" for row in rows if row.metric == CHANCE), None)
    return Table(*key, metrics=tuple(metrics), lines=lines, chance=chance)


def tables(rows: Sequence[Row]) -> list[Table]:
    """One table per benchmark, backbone and protocol, since their numbers must not share a column."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.benchmark, row.backbone, row.protocol), []).append(row)
    return [_table(key, group) for key, group in groups.items()]


def shortened(name: str, width: int = NAME_WIDTH) -> str:
    """A name of at most ``width`` characters, both ends kept."""
    half = width // 2
    return name if len(name) <= width else f"{name[: width - half - 1]}…{name[-half:]}"


def point_text(point: Any) -> str:
    """A value of a study's axis: numbers without needless digits."""
    return f"{point:g}" if isinstance(point, float) else str(point)


def aligned(cells: Sequence[Sequence[str]], numeric: range) -> list[str]:
    """Lines of equal columns, those of ``numeric`` to the right."""
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return [
        _GAP.join(
            cell.rjust(width) if column in numeric else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


def _grid(table: Table, metrics: Sequence[str], sign: str) -> list[str]:
    """Heading and lines, with ``sign`` between mean and spread."""
    cells = [["method", "trained on", *(TERMINAL_METRICS[metric] for metric in metrics), "seeds"]]
    for line in table.lines:
        values = [line.values.get(metric, "-").replace(" ± ", sign) for metric in metrics]
        cells.append([shortened(line.method), line.trained_on, *values, line.seeds])
    return aligned(cells, range(2, 2 + len(metrics)))


def _fitted(table: Table, shown: Sequence[str]) -> tuple[Sequence[str], list[str]]:
    """The metrics and lines of the roomiest form that is at most ``WIDTH`` columns wide."""
    tighter = [(shown[:count], "±") for count in range(len(shown), 0, -1)]
    for metrics, sign in [(shown, " ± "), *tighter]:
        grid = _grid(table, metrics, sign)
        if max(map(len, grid)) <= WIDTH:
            break
    return metrics, grid


def _plain(table: Table) -> str:
    metrics, (head, *body) = _fitted(table, [metric for metric in TERMINAL_METRICS if metric in table.metrics])
    rule = "-" * max(map(len, (head, *body)))
    captions = [f"protocol {table.protocol}", f"percent, mean ± sd over seeds; backbone {table.backbone}"]
    if "CF1" in metrics:
        captions.append(f"{TERMINAL_METRICS['CF1']}: at each class's threshold, learned on held-out training data")
    captions += [table.note] if table.note else []
    wrapped = [line for caption in captions for line in textwrap.wrap(caption, WIDTH)]
    return "\n".join([head, rule, *body, rule, *wrapped]) + "\n"


def plain_text(rows: Sequence[Row]) -> str:
    """The tables as aligned plain text, at most 100 columns wide, each with its protocol below."""
    return "\n".join(_plain(table) for table in tables(rows))
