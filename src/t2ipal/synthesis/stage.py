"""Stage 2: draw shards of synthetic images, several from one loading of the model."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from t2ipal.devices import describe
from t2ipal.errors import UnfinishedError
from t2ipal.io import digest
from t2ipal.progress import Progress
from t2ipal.sequences import batched
from t2ipal.synthesis import generator
from t2ipal.synthesis.donors import donors, finished
from t2ipal.synthesis.encoding import Encoded
from t2ipal.synthesis.gate import FAULTS
from t2ipal.synthesis.generator import Generator
from t2ipal.synthesis.notices import say
from t2ipal.synthesis.pipeline import draw_batches
from t2ipal.synthesis.plan import Sample, Shard
from t2ipal.synthesis.shard import Recipe, Record, ShardWriter, label_of
from t2ipal.synthesis.sources import read_captions


@dataclass(frozen=True)
class Job:
    """One shard to draw.

    ``settings`` are those of a synthesis unit: ``SynthesisSettings`` without what only says how to go about it, with
    ``model_identity`` and ``seed`` (the base seed). ``captions`` is the ``captions.parquet`` of the captions stage.
    """

    settings: dict[str, Any]
    captions: Path
    shard: Shard
    output: Path

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Self:
        """The job of a description as the workflow passes it: settings, captions, name of the shard, output."""
        settings = dict(described["settings"])
        shard = Shard.of(described["shard"], settings["shard_size"])
        return cls(settings, Path(described["captions"]), shard, Path(described["output"]))

    @property
    def recipe(self) -> Recipe:
        """What the samples of the shard have in common."""
        return Recipe(digest(self.settings, 16), self.settings["seed"], self.settings["image_format"])


class Artist:
    """The model, loaded when the first image is to be drawn, and the device that it draws on."""

    def __init__(self, settings: dict[str, Any], device: str) -> None:
        self.settings, self.device = settings, device

    @cached_property
    def model(self) -> Generator:
        """The loaded generator; it is the same for all seeds."""
        return generator.load(self.settings, self.device)

    @cached_property
    def description(self) -> str:
        """The device, for the record."""
        return describe(self.device)

    def truncated(self, samples: Sequence[Sample], shard: str) -> int:
        """How many of the samples' captions are longer than the model reads; says so."""
        found = sum(self.model.truncated([sample.caption.text for sample in samples]))
        if found:
            say(
                f"shard {shard}: {found} of {len(samples)} captions are longer than the model reads; their ends are cut"
            )
        return found


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM sets, in place of ending the process at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # only the main thread may handle signals
        return
    previous = signal.signal(signal.SIGTERM, lambda number, frame: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, previous)


def statistics(records: list[Record]) -> dict[str, Any]:
    """What the gate found over all images of a shard: images that took more than one attempt, failed ones, faults."""
    faults = Counter(found for record in records for found in record["faults"])
    return {
        "redrawn": sum(record["attempt"] > 0 for record in records),
        "failed": sum(record["failed"] for record in records),
        "faults": {name: faults[name] for name in FAULTS},
    }


def draw(jobs: Sequence[Job], device: str, scratch: Path | None = None) -> None:
    """Draw the shards of ``jobs``, one after the other: a WebDataset archive each, whose manifest comes last.

    A shard that is finished is left alone; one that an interrupted job left behind is taken up, and one that shares
    its first images with a finished shard begins with those. The archives' bytes do not depend on any of this.

    Args:
        jobs: shards of the same settings, but for the seed.
        device: ``cpu`` or ``cuda:N``.
        scratch: a directory of this node, where images are kept until there are enough for one large write.

    Raises:
        UserError: captions, model, device or disk are not fit.
        UnfinishedError: SIGTERM came; the current batch is on disk.
    """
    artist = Artist(jobs[0].settings, device)
    with stop_requests() as stop:
        for job in jobs:
            if finished(job.output, job.recipe.settings_digest, job.shard.count):
                say(f"{job.output.name} is finished: kept")
                label_of(job.output).unlink(missing_ok=True)  # of a job that was killed when all but this was done
            else:
                _draw_shard(job, artist, stop, scratch)


def _draw_shard(job: Job, artist: Artist, stop: threading.Event, scratch: Path | None) -> None:
    samples = job.shard.samples(read_captions(job.captions))
    recipe = job.recipe
    sharing = donors(job.output, job.shard, recipe.settings_digest)
    with ShardWriter(job.output, samples, recipe, job.settings["batch_size"], sharing, scratch) as writer:
        resumed = len(writer.records)
        seconds = 0.0
        if resumed < len(samples):
            _ = artist.model  # its loading is no part of the throughput
            start = time.monotonic()
            _draw_samples(job, artist, samples, writer, stop)
            seconds = time.monotonic() - start
        drawn = len(samples) - resumed
        writer.finish(
            {
                "shard": job.shard.name,
                "settings": job.settings,
                "settings_digest": recipe.settings_digest,
                "seconds": round(seconds, 3),
                "images_per_second": round(drawn / seconds, 3) if drawn else None,
                "device": artist.description,
                "resumed": resumed,
                "truncated": artist.truncated(samples, job.shard.name) if drawn else None,
                **statistics(writer.records),
            }
        )


def _draw_samples(
    job: Job, artist: Artist, samples: Sequence[Sample], writer: ShardWriter, stop: threading.Event
) -> None:
    settings, resumed, size = job.settings, len(writer.records), job.settings["batch_size"]
    batches = batched(samples[resumed:], size)
    with Progress(f"shard {job.shard.name}", len(samples), "images", resumed) as progress:

        def write(batch: Sequence[Sample], images: Sequence[Encoded]) -> None:
            writer.append(images)
            progress.advance(len(batch))

        draw_batches(
            artist.model, batches, settings["seed"], settings["redraws"], write, stop.is_set, settings["image_format"]
        )
    kept = len(writer.records)
    if kept < len(samples):
        say(f"shard {job.shard.name} was asked to stop: {kept} of {len(samples)} images are kept; run again")
        raise UnfinishedError
