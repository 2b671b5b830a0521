"""The report's section on time: what each stage's jobs took, as Snakemake measured them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from t2ipal.reporting.section import Section

HEAD = ("times", "Time and memory", "times.html.j2")


@dataclass(frozen=True)
class StageTime:
    """The jobs of one stage: their number, seconds in all and of the longest, MiB of the largest.

    ``things`` is what they worked on, as ``(1600, "images")``; the rate is of the jobs one after the other.
    """

    stage: str
    jobs: int
    seconds: float
    longest: float
    memory: float | None
    things: tuple[int, str] | None

    @property
    def rate(self) -> float | None:
        """Things per second of a job, start-up included."""
        return self.things[0] / self.seconds if self.things and self.seconds > 0 else None


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def measurements(paths: Sequence[Path]) -> list[tuple[float, float | None]]:
    """Seconds and MiB (resident) of each job, of the files that can be read: Snakemake's ``benchmark`` tables."""
    found = []
    for path in paths:
        try:
            with path.open(encoding="utf-8", newline="") as handle:
                rows = list(csv.DictReader(handle, delimiter="\t"))
        except (OSError, ValueError, csv.Error):
            continue
        for row in rows:
            seconds = _number(row.get("s"))
            if seconds is not None:
                found.append((seconds, _number(row.get("max_rss"))))
    return found


def stage_time(stage: str, paths: Sequence[Path], things: tuple[int, str] | None) -> StageTime | None:
    """What a stage's jobs took together; None if nothing was measured."""
    found = measurements(paths)
    if not found:
        return None
    seconds = [time for time, _ in found]
    memory = [size for _, size in found if size is not None]
    return StageTime(stage, len(found), sum(seconds), max(seconds), max(memory, default=None), things)


def times_section(paths: Mapping[str, Sequence[Path]], things: Mapping[str, tuple[int, str]]) -> Section:
    """A line for each stage.

    Args:
        paths: the measurements of each stage's jobs of this run, in the order of the stages.
        things: what each stage worked on, where it can be counted.
    """
    lines = [line for stage, found in paths.items() if (line := stage_time(stage, found, things.get(stage)))]
    content = {"lines": lines, "seconds": sum(line.seconds for line in lines)}
    return Section(*HEAD, content, None if lines else "No measurement of a job's time was kept.")
