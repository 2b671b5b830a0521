"""The results table: its columns, its numbers as text, and its plain-text form for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from t2ipal.reporting.records import TRAINED_ON, Row

WIDTH = 100
TERMINAL_METRICS = ("mAP", "CF1_top3")
TITLES = {
    "mAP": "mAP",
    "mAP_voc11": "mAP, VOC 11-point",
    "CF1_top3": "CF1 top-3",
    "OF1_top3": "OF1 top-3",
}
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


def title(metric: str) -> str:
    """A metric's heading."""
    return TITLES.get(metric, metric.replace("_", " "))


def percent(row: Row) -> str:
    """``45.12 ± 0.34``, in percent; without the spread when there is one seed only."""
    mean = f"{100 * row.mean:.2f}"
    return f"{mean} ± {100 * row.sd:.2f}" if len(row.seeds) > 1 else mean


def _seeds(row: Row) -> str:
    if row.trained_on == TRAINED_ON[None]:
        return "any"
    listed = ", ".join(map(str, row.seeds))
    return listed if len(listed) <= 12 else f"{len(row.seeds)} seeds"


def _line(method: str, rows: Sequence[Row]) -> Line:
    return Line(method, rows[0].trained_on, {row.metric: percent(row) for row in rows}, _seeds(rows[0]))


def _table(key: tuple[str, str, str], rows: Sequence[Row]) -> Table:
    known = {row.metric for row in rows}
    metrics = [metric for metric in TITLES if metric in known] + sorted(known - set(TITLES))
    methods = dict.fromkeys(row.method for row in rows)
    lines = tuple(_line(method, [row for row in rows if row.method == method]) for method in methods)
    return Table(*key, metrics=tuple(metrics), lines=lines)


def tables(rows: Sequence[Row]) -> list[Table]:
    """One table per benchmark, backbone and protocol, since their numbers must not share a column."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.benchmark, row.backbone, row.protocol), []).append(row)
    return [_table(key, group) for key, group in groups.items()]


def _aligned(cells: Sequence[Sequence[str]], numeric: range) -> list[str]:
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return [
        _GAP.join(
            cell.rjust(width) if column in numeric else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


def _plain(table: Table) -> str:
    metrics = [metric for metric in TERMINAL_METRICS if metric in table.metrics]
    cells = [["method", "trained on", *map(title, metrics), "seeds"]]
    for line in table.lines:
        values = [line.values.get(metric, "-") for metric in metrics]
        cells.append([line.method, line.trained_on, *values, line.seeds])
    head, *body = _aligned(cells, range(2, 2 + len(metrics)))
    rule = "-" * max(map(len, (head, *body)))
    caption = f"percent, mean ± sd over seeds; backbone {table.backbone}"
    wrapped = [*textwrap.wrap(f"protocol {table.protocol}", WIDTH), *textwrap.wrap(caption, WIDTH)]
    return "\n".join([head, rule, *body, rule, *wrapped]) + "\n"


def plain_text(rows: Sequence[Row]) -> str:
    """The tables as aligned plain text, at most 100 columns wide, each with its protocol below."""
    return "\n".join(_plain(table) for table in tables(rows))
