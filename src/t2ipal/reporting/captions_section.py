"""The report's section on the captions of one seed: who wrote them, what they name, and some of them."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from t2ipal.io import read_json
from t2ipal.reporting import captions_figure
from t2ipal.reporting.section import Section

HEAD = ("captions", "Captions", "captions.html.j2")
# Examples of a class, the captions that are looked through for them, and the most letters of one that are shown.
EXAMPLES, SCANNED, LETTERS = 3, 20_000, 300
# From more classes on, what is listed by class is folded.
FOLDED = 24
BESIDE = 5


@dataclass(frozen=True)
class Piece:
    """A part of a caption; ``mark`` says whose word it is: ``own``, ``other``, or none for no class's."""

    text: str
    mark: str | None


@dataclass(frozen=True)
class Example:
    """A caption in pieces, and what is known about it."""

    pieces: tuple[Piece, ...]
    source: str
    labels: tuple[str, ...]
    tokens: int
    truncated: bool


@dataclass(frozen=True)
class SourceLine:
    """A source: its captions, the share that names exactly what was asked for, and how often a template stood in."""

    name: str
    count: int
    agreement: float | None
    topped_up: int


@dataclass(frozen=True)
class ClassLine:
    """A class: captions asked to name it, that name it, and both; and the classes most often beside it."""

    name: str
    requested: int
    mined: int
    both: int
    beside: tuple[tuple[str, int], ...]
    others: int


@dataclass(frozen=True)
class HeatMap:
    """The encoded figure, and the CSS pixels that it is shown on."""

    source: str
    width: int
    height: int
    alternative: str


def pieces(text: str, mentions: Sequence[Mapping[str, Any]], name: str) -> tuple[Piece, ...]:
    """``text`` cut at the spans of ``mentions``; those of class ``name`` are its own.

    Of spans that overlap the first is kept, of equal ones that of ``name``. Texts of more than ``LETTERS`` end there.
    """
    cut = text if len(text) <= LETTERS else text[: LETTERS - 1]
    spans = sorted((int(m["start"]), int(m["end"]), m["label"] != name) for m in mentions)
    found, at = [], 0
    for start, end, foreign in spans:
        end = min(end, len(cut))
        if at <= start < end:
            found += [Piece(cut[at:start], None), Piece(cut[start:end], "other" if foreign else "own")]
            at = end
    found.append(Piece(cut[at:] + ("…" if len(cut) < len(text) else ""), None))
    return tuple(piece for piece in found if piece.text)


def _rows(table: pq.ParquetFile) -> Iterator[dict[str, Any]]:
    columns = ["text", "labels", "source", "mentions", "tokens", "truncated"]
    for batch in table.iter_batches(batch_size=2000, columns=columns):
        yield from batch.to_pylist()


def examples(rows: Iterator[dict[str, Any]], names: Sequence[str]) -> dict[str, list[Example]]:
    """For each class the first captions that name it, one of each source before a second one of any.

    Args:
        rows: of ``captions.parquet``, in order; at most ``SCANNED`` are read.
        names: the classes.
    """
    kept: dict[str, dict[str, list[dict[str, Any]]]] = {name: {} for name in names}
    for row in islice(rows, SCANNED):
        for name in row["labels"]:
            of_source = kept[name].setdefault(row["source"], [])
            if len(of_source) < EXAMPLES:
                of_source.append(row)
    return {name: [_example(row, name) for row in _in_turn(list(kept[name].values()))] for name in names}


def _in_turn(queues: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    turns = [queue[turn] for turn in range(EXAMPLES) for queue in queues if turn < len(queue)]
    return turns[:EXAMPLES]


def _example(row: Mapping[str, Any], name: str) -> Example:
    shown = pieces(row["text"], row["mentions"], name)
    return Example(shown, str(row["source"]), tuple(row["labels"]), int(row["tokens"]), bool(row["truncated"]))


def source_lines(manifest: Mapping[str, Any]) -> list[SourceLine]:
    """A line for each source, the largest first."""
    stood_in = {name: sum(counts.values()) for name, counts in manifest["topped_up"].items()}
    lines = [
        SourceLine(name, int(facts["count"]), _share(facts["agreement"]), stood_in.get(name, 0))
        for name, facts in manifest["sources"].items()
    ]
    return sorted(lines, key=lambda line: (-line.count, line.name))


def class_lines(manifest: Mapping[str, Any], names: Sequence[str]) -> list[ClassLine]:
    """A line for each class, in the order of the label set."""
    numbers = captions_figure.matrix(manifest["pairs"], names)
    lines = []
    for index, name in enumerate(names):
        beside = Counter(dict(zip(names, numbers[index].tolist(), strict=True)))
        most = tuple((other, count) for other, count in beside.most_common(BESIDE) if count)
        own = manifest["per_class"][name]
        requested, mined, both = (int(own[key]) for key in ("requested", "mined", "both"))
        lines.append(ClassLine(name, requested, mined, both, most, int((numbers[index] > 0).sum()) - len(most)))
    return lines


def heat_map(manifest: Mapping[str, Any], names: Sequence[str]) -> HeatMap:
    """The figure of which classes are named together, with the most frequent pairs as its text."""
    numbers = captions_figure.matrix(manifest["pairs"], names)
    svg, (width, height) = captions_figure.draw_pairs(numbers, names)
    source = "data:image/svg+xml;base64," + base64.b64encode(svg.encode("utf-8")).decode("ascii")
    pairs = {
        (names[row], names[column]): int(numbers[row, column])
        for row in range(len(names))
        for column in range(row + 1, len(names))
    }
    most = [f"{one} and {other} ({count})" for (one, other), count in Counter(pairs).most_common(3) if count]
    together = sum(count > 0 for count in pairs.values())
    alternative = f"Heat map: {together} of {len(pairs)} pairs of classes are named together in some caption"
    return HeatMap(source, width, height, f"{alternative}{'; most often ' if most else ''}{', '.join(most)}.")


def _stood_in(manifest: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, int]]]]:
    """For each source the classes that templates stood in for, the most frequent first."""
    return [
        (source, sorted(counts.items(), key=lambda item: (-item[1], item[0])))
        for source, counts in sorted(manifest["topped_up"].items())
        if counts
    ]


def captions_of_seed_section(directory: Path, names: Sequence[str], seed: int) -> Section:
    """How many captions which source wrote, which classes they name, alone and together, and examples of each class.

    Args:
        directory: of the captions stage; if a file of it is missing or damaged, the section says so.
        names: the classes, in the order of the label set.
        seed: the seed of the captions.
    """
    paths = (directory / "captions.json", directory / "captions.parquet")
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        return Section(*HEAD, {}, f"The captions of seed {seed} are not there: {missing} is missing.")
    reading = paths[0]
    try:
        manifest = read_json(reading)
        content = _content(manifest, names)
        reading = paths[1]
        with pq.ParquetFile(reading) as table:
            if table.metadata.num_rows != manifest["count"]:
                raise ValueError(f"{table.metadata.num_rows} rows, where {paths[0].name} counts {manifest['count']}")
            found = examples(_rows(table), names)
    except (OSError, pa.ArrowException, LookupError, TypeError, ValueError, AttributeError) as error:
        return Section(
            *HEAD,
            {},
            f"The captions of seed {seed} cannot be shown: {reading} is damaged ({_said(error)}); "
            f"delete {directory} and run again.",
        )
    return Section(*HEAD, {**content, "examples": found, "seed": seed})


def _said(error: Exception) -> str:
    said = (str(error).strip().splitlines() or [""])[0]
    return f"{said} is missing" if isinstance(error, KeyError) else said or type(error).__name__


def _share(value: Any) -> float | None:
    return None if value is None else float(value)


def _content(manifest: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    lines = class_lines(manifest, names)
    return {
        "count": int(manifest["count"]),
        "agreement": _share(manifest["agreement"]),
        "sizes": sorted((int(size), int(count)) for size, count in manifest["classes_per_caption"].items()),
        "tokens": {key: int(manifest["tokens"][key]) for key in ("most", "context", "truncated")},
        "tokenizer": str(manifest["settings"]["tokenizer"]),
        "sources": source_lines(manifest),
        "topped_up": _stood_in(manifest),
        "lines": lines,
        "largest": max([1, *(max(line.requested, line.mined) for line in lines)]),
        "map": heat_map(manifest, names),
        "folded": len(names) > FOLDED,
        "scanned": SCANNED,
    }
