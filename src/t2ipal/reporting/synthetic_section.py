"""The report's section on the synthetic images of one seed: contact sheets by class, and how the shards were drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from t2ipal.io import read_json
from t2ipal.reporting import figures
from t2ipal.reporting.section import Section
from t2ipal.shards import Sample, samples
from t2ipal.verification.store import read

HEAD = ("synthetic", "Synthetic images", "synthetic.html.j2")
# Samples that are looked through; images of one class; images of all classes, to keep the page small.
SCANNED, ROW, PICTURES = 5000, 6, 240
# Classes whose images are unfolded, and shards whose table is.
OPEN_CLASSES, OPEN_SHARDS = 24, 12


@dataclass(frozen=True)
class Label:
    """A mined label and its presence in the image in whole percent, if that was verified."""

    name: str
    presence: int | None
    doubtful: bool


@dataclass(frozen=True)
class Cell:
    """One image of a contact sheet."""

    picture: str
    width: int
    height: int
    caption: str
    labels: tuple[Label, ...]


@dataclass(frozen=True)
class ShardLine:
    """How a shard was drawn; ``drawn`` of its images in ``seconds``, the others had been there. None is unknown."""

    name: str
    images: int
    drawn: int
    seconds: float
    device: str
    redrawn: int
    failed: int
    truncated: int | None
    resumed: int

    @property
    def rate(self) -> float | None:
        """Images per second."""
        return self.drawn / self.seconds if self.drawn and self.seconds > 0 else None


class Presence:
    """The presence of each label of a seed's images, by the verification."""

    def __init__(self, parts: Sequence[Path], least: float) -> None:
        """``parts`` are those of the verification; if one does not exist, nothing is known.

        Raises:
            UserError: a part is damaged.
        """
        self.least = least
        self.known = bool(parts) and all(path.is_file() for path in parts)
        if self.known:
            scores = read(parts)
            self._values = scores.presence()
            self._rows = {key: row for row, key in enumerate(scores.keys)}
            self._columns = {name: column for column, name in enumerate(scores.classes)}

    def label(self, key: str, name: str) -> Label:
        """The label ``name`` of the image ``key``. Percents are rounded down, so that none below looks as if not."""
        if not self.known or key not in self._rows or name not in self._columns:
            return Label(name, None, False)
        value = float(self._values[self._rows[key], self._columns[name]])
        return Label(name, math.floor(100 * value + 1e-9), value < self.least)


def per_class(classes: int) -> int:
    """Images of each of so many classes: ``ROW``, fewer where the page would become large, but two at least."""
    return max(2, min(ROW, PICTURES // max(classes, 1)))


def sheets(found: Iterable[Sample], classes: Sequence[str], presence: Presence) -> dict[str, list[Cell]]:
    """The first images that carry each class, an image once: for that of its classes which has fewest so far.

    How well an image came out plays no part. Stops reading when every class has ``per_class`` images.
    """
    most = per_class(len(classes))
    sheet: dict[str, list[Cell]] = {name: [] for name in classes}
    pending = set(classes)
    if not pending:
        return sheet
    for sample in found:
        carried = [name for name in classes if name in pending and name in sample.labels]
        if carried:
            name = min(carried, key=lambda name: len(sheet[name]))
            sheet[name].append(_cell(sample, presence))
            if len(sheet[name]) == most:
                pending.remove(name)
        if not pending:
            break
    return sheet


def _cell(sample: Sample, presence: Presence) -> Cell:
    picture = figures.fit(sample.image())
    labels = tuple(presence.label(sample.key, name) for name in sample.labels)
    return Cell(figures.data_uri(picture, lossless=True), *picture.size, sample.caption, labels)


def shard_line(path: Path) -> ShardLine:
    """What the manifest of a shard tells.

    Raises:
        OSError, ValueError, TypeError, KeyError: it is missing or damaged.
    """
    manifest: Mapping[str, Any] = read_json(path)
    images, resumed, truncated = int(manifest["count"]), int(manifest["resumed"]), manifest["truncated"]
    return ShardLine(
        str(manifest["shard"]),
        images,
        images - resumed,
        float(manifest["seconds"]),
        str(manifest["device"]),
        int(manifest["redrawn"]),
        int(manifest["failed"]),
        None if truncated is None else int(truncated),
        resumed,
    )


def shard_lines(paths: Sequence[Path]) -> tuple[list[ShardLine], list[str]]:
    """A line for each manifest that can be read, and a clause for each that cannot."""
    lines, faults = [], []
    for path in paths:
        try:
            lines.append(shard_line(path))
        except FileNotFoundError:
            faults.append(f"{path} is missing")
        except KeyError as error:
            faults.append(f"{path} says nothing of {error}")
        except (OSError, ValueError, TypeError) as error:
            faults.append(f"{path} is damaged ({error})")
    return lines, faults


def total(lines: Sequence[ShardLine]) -> ShardLine:
    """All shards together; the rate is that of one job, as if one had drawn them all."""
    devices = list(dict.fromkeys(line.device for line in lines))
    truncated = [line.truncated for line in lines if line.truncated is not None]
    return ShardLine(
        "all",
        sum(line.images for line in lines),
        sum(line.drawn for line in lines),
        sum(line.seconds for line in lines if line.drawn),
        devices[0] if len(devices) == 1 else f"{len(devices)} devices",
        sum(line.redrawn for line in lines),
        sum(line.failed for line in lines),
        sum(truncated) if truncated else None,
        sum(line.resumed for line in lines),
    )


def drawn_images_section(
    shards: Sequence[Path], parts: Sequence[Path], classes: Sequence[str], model: str, seed: int, least: float
) -> Section:
    """Images of each class with caption, labels and their presence; images, speed and faults of each shard.

    Args:
        shards: the archives of the seed, each with its manifest beside it; if one does not exist, the section says so.
        parts: of the verification of the same seed; they need not exist.
        classes: the classes that are shown, in order.
        model: what drew the images.
        seed: the seed.
        least: the presence below which a label is doubtful.

    Raises:
        UserError: a shard or a part of the verification is damaged.
    """
    missing = next((shard for shard in shards if not shard.is_file()), None)
    if missing is not None:
        return Section(*HEAD, {}, f"The synthetic images of seed {seed} are not there: {missing} is missing.")
    presence = Presence(parts, least)
    sheet = sheets(islice(chain.from_iterable(map(samples, shards)), SCANNED), classes, presence)
    shown = [(name, cells) for name, cells in sheet.items() if cells]
    lines, faults = shard_lines([shard.with_suffix(".json") for shard in shards])
    content = {
        "model": model,
        "seed": seed,
        "row": per_class(len(classes)),
        "open": shown[:OPEN_CLASSES],
        "folded": shown[OPEN_CLASSES:],
        "without": [name for name, cells in sheet.items() if not cells],
        "scanned": SCANNED,
        "verified": presence.known,
        "least": f"{100 * least:g}",
        "lines": lines,
        "total": total(lines) if lines else None,
        "faults": faults,
        "many_shards": len(lines) > OPEN_SHARDS,
    }
    return Section(*HEAD, content)
