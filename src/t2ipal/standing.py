"""How a run stands: what is done, under way, out of date or left over, and why; told from its files alone."""

from __future__ import annotations

import base64
import binascii
import fcntl
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from t2ipal.config import Config, members
from t2ipal.experiments import chosen, experiments
from t2ipal.io import canonical_json, read_json
from t2ipal.layout import Layout
from t2ipal.units import Unit, closure

STAGES = ("index", "captions", "synthesis", "verification", "features", "training", "evaluation", "gap")
# What is made again when one of these, which it is made from, is newer (`workflow/rules`); elsewhere age says nothing.
_WATCHED = {
    "features": ("captions",),
    "training": ("features", "verification", "training"),
    "evaluation": ("features", "training"),
    "gap": ("features", "training"),
}
_SHOWN = 5
_RUN = re.compile(r".+-[0-9a-f]{12}")


@dataclass(frozen=True)
class StageStanding:
    """One stage of a run: its units, and their files that there are to be, are there, and are being made."""

    stage: str
    units: int
    files: int
    done: int
    under_way: int


@dataclass(frozen=True)
class Leftover:
    """A directory that belongs to no table or study of the configuration, and how its settings differ, if known."""

    path: str
    bytes: int
    why: str


@dataclass(frozen=True)
class Standing:
    """How a table or study stands. ``running``: a process holds the results; ``stale``: file and what is newer."""

    experiment: str
    results: str
    running: bool
    stages: tuple[StageStanding, ...]
    under_way: tuple[str, ...]
    stale: tuple[tuple[str, str], ...]
    leftovers: tuple[Leftover, ...]

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to do."""
        return not self.stale and not self.under_way and all(stage.done == stage.files for stage in self.stages)


def is_held(results: Path) -> bool:
    """Whether a run is writing to ``results``: it holds a lock that ends with it."""
    try:
        with (results / ".claim").open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def begun(snakemake: Path) -> set[str]:
    """The files of jobs that Snakemake has begun and not ended, by its own records below ``.snakemake``."""
    found = set()
    for path in (snakemake / "incomplete").rglob("*"):
        if path.is_file():
            # Of a long name all pieces but the last are directories, each with an @ before it.
            *folders, last = path.relative_to(snakemake / "incomplete").parts
            encoded = "".join(folder.removeprefix("@") for folder in folders) + last
            try:
                found.add(base64.b64decode(encoded, b"-_", validate=True).decode())
            except (binascii.Error, UnicodeDecodeError):
                continue
    return found


def _mtime(paths: Iterable[Path]) -> list[tuple[int, Path]]:
    found = []
    for path in paths:
        try:
            found.append((path.stat().st_mtime_ns, path))
        except OSError:
            continue
    return found


def _stale(layout: Layout, units: Sequence[Unit]) -> Iterator[tuple[str, str]]:
    """Files that are older than what they are made from, each with the newest of that."""
    for unit in units:
        own = _mtime(layout.files(unit))
        above = [found for found in unit.upstream if found.stage in _WATCHED.get(unit.stage, ())]
        newer = _mtime(path for found in above for path in layout.files(found))
        if own and newer and min(own)[0] < max(newer)[0]:
            yield str(min(own)[1]), str(max(newer)[1])


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _flat(values: Any, at: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {at: values}
    found: dict[str, Any] = {}
    for name, below in values.items():
        found |= _flat(below, f"{at}.{name}" if at else name)
    return found


def _why(directory: Path, units: Sequence[Unit]) -> str:
    """How a model that belongs to no unit differs from the unit of its name; only models keep their settings."""
    name = directory.name.rpartition("-")[0]
    unit = next((found for found in units if found.stage == directory.parent.name and found.name == name), None)
    if unit is None:
        return "no method, seed or benchmark of this configuration"
    try:
        before = _flat(read_json(directory / "model.json")["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        return "other settings, or another version of its stage"
    now = _flat(json.loads(canonical_json(unit.settings)))
    keys = [key for key in before.keys() | now.keys() if before.get(key) != now.get(key)]
    said = [f"{key} {before.get(key)!r}, now {now.get(key)!r}" for key in sorted(keys)]
    return "; ".join(said[:_SHOWN]) if said else "made from other data, or by another version of its stage"


def _leftovers(root: Path, every: Sequence[Unit]) -> Iterator[Leftover]:
    known = {(unit.stage, unit.run) for unit in every}
    for stage in STAGES:
        folder = root / stage
        for directory in sorted(folder.iterdir()) if folder.is_dir() else ():
            if _RUN.fullmatch(directory.name) and (stage, directory.name) not in known:
                yield Leftover(str(directory), _size(directory), _why(directory, every))


def standing(config: Config, experiment: str = "summary", snakemake: Path = Path(".snakemake")) -> Standing:
    """How a table or study of ``config`` stands.

    Args:
        config: the configuration.
        experiment: ``summary`` for ``eval_all``.
        snakemake: Snakemake's directory of the same run.

    Raises:
        UserError: there is no such experiment, or the configuration names files that are not there.
    """
    layout, root = Layout(config), Path(config.results)
    found = experiments(config)
    gaps = [gap for member in members(config) for gap in Layout(member).gaps()]
    ends = [entry.unit for entry in chosen(found, experiment, config).entries]
    units = closure([*ends, *(gaps if experiment == "summary" else [])])
    every = closure([entry.unit for one in found.values() for entry in one.entries]) + gaps
    every += [layout.verification(seed) for seed in config.seeds] if not config.together else []
    unfinished = begun(snakemake)
    stages, under_way = [], []
    for stage in STAGES:
        own = [unit for unit in units if unit.stage == stage]
        files = list(dict.fromkeys(path for unit in own for path in layout.files(unit)))
        open_ = [str(path) for path in files if str(path) in unfinished]
        done = sum(path.is_file() and str(path) not in unfinished for path in files)
        under_way += open_
        if own:
            stages.append(StageStanding(stage, len({unit.run for unit in own}), len(files), done, len(open_)))
    return Standing(
        experiment,
        str(root),
        is_held(root),
        tuple(stages),
        tuple(under_way),
        tuple(dict.fromkeys(_stale(layout, units))),
        tuple(_leftovers(root, every)),
    )


def as_json(found: Standing) -> str:
    """The standing for programs."""
    return json.dumps({**asdict(found), "is_done": found.is_done}, indent=2)


def _listed(lines: Sequence[str]) -> list[str]:
    rest = len(lines) - _SHOWN
    return [f"  {line}" for line in lines[:_SHOWN]] + ([f"  and {rest} more (--json has all)"] if rest > 0 else [])


def render(found: Standing) -> str:
    """The standing as a page of text."""
    head = "a run is writing to it now" if found.running else "no run is writing to it"
    lines = [f"'{found.experiment}' in {found.results}: {head}", "", "  stage         units  files done"]
    for stage in found.stages:
        note = f"  {stage.under_way} under way" if stage.under_way else ""
        note = note if found.running else note.replace("under way", "broken off, made again by the next run")
        lines.append(f"  {stage.stage:<12}  {stage.units:>5}  {stage.done:>5} of {stage.files}{note}")
    if found.stale:
        lines += ["", "out of date, as what they are made from is newer:"]
        lines += _listed([f"{path} (newer: {newer})" for path, newer in found.stale])
    if found.leftovers:
        size = sum(left.bytes for left in found.leftovers) / 2**20
        lines += ["", f"of no table or study of this configuration: {len(found.leftovers)} directories, {size:.1f} MiB"]
        lines += _listed([f"{left.path}: {left.why}" for left in found.leftovers])
        lines.append("  They are found again when the configuration is what it was. Delete them as you like.")
    lines += ["", "all done" if found.is_done else "the next run makes what is missing"]
    return "\n".join(lines)
