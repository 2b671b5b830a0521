"""The plan of a run's images: what is asked for, what is there, what is left to pay."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from t2ipal.acquisition.catalogue import Item, items
from t2ipal.acquisition.room import free_bytes
from t2ipal.acquisition.room import render as render_downloads
from t2ipal.batches import ShardBatch, images, shard_batches
from t2ipal.budget.rates import Rate, expected_bytes, measured, published
from t2ipal.config import Config
from t2ipal.errors import UserError
from t2ipal.experiments import Experiment
from t2ipal.layout import Layout
from t2ipal.units import Unit

GIB = 2**30
# Left free for features, models and whatever else writes to the disk.
_RESERVE = 0.05


@dataclass(frozen=True)
class Plan:
    """The images of one table or study. ``done`` counts finished shards and their images."""

    experiment: str
    images: int
    images_done: int
    shards: int
    shards_done: int
    jobs: int
    jobs_left: int
    bytes_per_image: float
    rate: Rate | None
    free: int

    @property
    def images_left(self) -> int:
        """Images that are still to be drawn."""
        return self.images - self.images_done

    @property
    def bytes_left(self) -> float:
        """Disk that the images to be drawn will take."""
        return self.images_left * self.bytes_per_image

    @property
    def fits(self) -> bool:
        """Whether the disk holds what is left to be drawn."""
        return self.bytes_left <= self.free * (1 - _RESERVE)


def _is_done(layout: Layout, unit: Unit, piece: str) -> bool:
    return all(path.is_file() for path in layout.shard(unit, piece))


def plan(config: Config, experiment: Experiment) -> Plan:
    """The plan of the images that a table or study of ``config`` asks for."""
    layout, root = Layout(config), Path(config.results)
    units = [unit for unit in experiment.units if unit.stage == "synthesis"]
    jobs: list[ShardBatch] = shard_batches({experiment.name: units}, config.synthesis.shards_per_job)
    shards = [shard for job in jobs for shard in job.shards]
    done = [shard for shard in shards if _is_done(layout, *shard)]
    left = [job for job in jobs if not all(_is_done(layout, *shard) for shard in job.shards)]
    found = measured(root, (units[0] if units else layout.synthesis(config.seeds[0])).settings)
    return Plan(
        experiment=experiment.name,
        images=images(shards),
        images_done=images(done),
        shards=len(shards),
        shards_done=len(done),
        jobs=len(jobs),
        jobs_left=len(left),
        bytes_per_image=found.bytes_per_image or expected_bytes(config.synthesis),
        rate=found.rate or published(config.synthesis),
        free=free_bytes(root),
    )


def check_disk(found: Plan, results: str) -> None:
    """Refuse a plan that the disk cannot hold.

    Raises:
        UserError: says how much is missing.
    """
    if not found.fits:
        raise UserError(
            f"the {found.images_left:,} images to draw take about {found.bytes_left / GIB:.1f} GiB, but the disk of "
            f"results directory '{results}' has {found.free / GIB:.1f} GiB free; free some, set 'results' to another "
            "disk, or lower captions.total or synthesis.images_per_caption"
        )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def render(found: Plan, config: Config) -> str:
    """The plan as a page of text."""
    synthesis = config.synthesis
    size, seeds = f"{synthesis.width} x {synthesis.height}", len(config.seeds)
    lines = [
        f"plan of '{found.experiment}': {synthesis.model}, {size}, {synthesis.steps} steps",
        f"  images   {found.images:,} ({seeds} seeds), {found.images_done:,} done, {found.images_left:,} left",
        f"  shards   {found.shards:,}, {found.shards_done:,} done",
        f"  jobs     {found.jobs:,} of up to {synthesis.shards_per_job} shards, {found.jobs_left:,} left",
        f"  disk     {found.images * found.bytes_per_image / GIB:.2f} GiB in all, {found.bytes_left / GIB:.2f} GiB "
        f"left to write, {found.free / GIB:.1f} GiB free",
    ]
    if found.rate is None:
        lines.append(
            "  time     unknown: no shard of these settings is drawn yet, and no published speed fits the model"
        )
    else:
        seconds = found.images_left / found.rate.images_per_second
        lines += [
            f"  time     {_duration(seconds)} of one device ({seconds / 3600:.2f} device-hours) at "
            f"{found.rate.images_per_second:.2f} images/s on {found.rate.device}",
            f"           {found.rate.origin}",
        ]
    if not found.fits:
        lines.append("  the disk cannot hold this: the run would refuse to start")
    return "\n".join(lines)


def needed_items(config: Config, experiment: Experiment) -> list[Item]:
    """The downloads that a table or study of ``config`` is made from, whether or not they are there."""
    needed = {path for unit in experiment.units for path in unit.needs}
    return [item for item in items().values() if str(item.manifest(Path(config.benchmark.downloads))) in needed]


def downloads(config: Config, experiment: Experiment) -> str:
    """What a table or study of ``config`` has yet to download, and the disk for it; empty if nothing."""
    given = config.benchmark
    return render_downloads(needed_items(config, experiment), Path(given.downloads), given.mirrors)


def as_json(found: Plan) -> str:
    """The plan for programs."""
    rate = None if found.rate is None else vars(found.rate)
    return json.dumps({**vars(found), "rate": rate, "images_left": found.images_left, "fits": found.fits}, indent=2)
