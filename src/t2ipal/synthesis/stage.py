"""Stage 2: draw one shard of synthetic images."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from t2ipal.devices import describe, resolve
from t2ipal.errors import UnfinishedError
from t2ipal.io import digest
from t2ipal.progress import Progress
from t2ipal.synthesis import generator
from t2ipal.synthesis.gate import FAULTS, draw_batch
from t2ipal.synthesis.notices import say
from t2ipal.synthesis.plan import shard_samples
from t2ipal.synthesis.shard import Recipe, Record, ShardWriter
from t2ipal.synthesis.sources import read_captions


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


def draw_shard(settings: dict[str, Any], captions: Path, shard: int, output: Path, device: str) -> None:
    """Draw the images of ``shard`` into the WebDataset archive ``output``; its manifest ``.json`` comes last.

    Takes up what an interrupted job left beside ``output``. The archive's bytes do not depend on interruptions.

    Args:
        settings: the settings of the synthesis unit: ``SynthesisSettings`` without device, with
            ``model_identity`` and ``seed`` (the base seed).
        captions: ``captions.parquet`` of the captions stage.
        shard: number of the shard, from 0.
        output: the ``.tar`` to write.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UserError: captions, model, device or disk are not fit.
        UnfinishedError: SIGTERM came; the current batch is on disk.
    """
    device = resolve(device, "synthesis.device")
    samples = shard_samples(read_captions(captions), settings["images_per_caption"], settings["shard_size"], shard)
    recipe = Recipe(digest(settings, 16), settings["seed"], settings["image_format"])
    size = settings["batch_size"]
    start = time.monotonic()
    with stop_requests() as stop, ShardWriter(output, samples, recipe, size) as writer:
        resumed = len(writer.records)
        if resumed < len(samples):
            model = generator.load(settings, device)
            with Progress(f"shard {shard}", len(samples), "images", resumed) as progress:
                for first in range(resumed, len(samples), size):
                    if stop.is_set():
                        say(f"shard {shard} was asked to stop: {first} of {len(samples)} images are kept; run again")
                        raise UnfinishedError
                    batch = samples[first : first + size]
                    writer.append(draw_batch(model.draw, batch, settings["seed"], settings["redraws"]))
                    progress.advance(len(batch))
        seconds = time.monotonic() - start
        drawn = len(samples) - resumed
        writer.finish(
            {
                "shard": shard,
                "settings_digest": recipe.settings_digest,
                "seconds": round(seconds, 3),
                "images_per_second": round(drawn / seconds, 3) if drawn else None,
                "device": describe(device),
                "resumed": resumed,
                **statistics(writer.records),
            }
        )
