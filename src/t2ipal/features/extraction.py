"""From images to a part of the cache: workers decode, the model encodes, a thread writes, all at the same time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, tee
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from t2ipal.errors import UserError
from t2ipal.features import precision, store
from t2ipal.features.backbone import Backbone
from t2ipal.features.decoding import Decoded, DividedTransform, decode_batches
from t2ipal.images import Source
from t2ipal.progress import Progress
from t2ipal.sequences import batched

# Images whose features are computed in float32, too, to say what half precision costs.
COMPARED = 16


@dataclass(frozen=True)
class Item:
    """An image with what is known of it; ``file`` is what it is called where it cannot be read."""

    key: str
    file: str
    labels: Sequence[str]
    unknown: Sequence[str]
    source: Source


@dataclass(frozen=True)
class Tolerance:
    """How many images may be unreadable, and what is said if there are more, of their records key, file, reason."""

    images: float
    refusal: Callable[[list[dict[str, str]]], UserError]


@dataclass
class Extraction:
    """Encodes the images of one part.

    ``workers`` processes decode, or this one if there are none. ``reference`` loads the same CLIP in float32;
    it is asked for only if ``backbone`` is of another precision.
    """

    backbone: Backbone
    batch_size: int
    workers: int
    tolerance: Tolerance
    reference: Callable[[], Backbone]
    _missing: list[dict[str, str]] = field(default_factory=list)
    _facts: dict[str, Any] = field(default_factory=dict)
    _grid: list[int] = field(default_factory=list)

    def write(self, items: Iterable[Item], total: int, what: str, output: Path, describe: dict[str, Any]) -> None:
        """Encode the images, ``total`` in number, and write the part; ``describe`` is its metadata.

        Raises:
            UserError: more images are unreadable than are tolerated; or see ``store.write``.
        """
        with Progress(f"features of {what}", total, "images") as progress:
            rows = self._rows(items, progress)
            first = list(islice(rows, 1))  # from which the grid is known
            store.write(output, chain(first, rows), {**describe, "grid": self._grid}, lambda: self._facts)
        for record in self._missing:
            print(f"left out: {record['file']}: {record['reason']}", file=sys.stderr)

    def _rows(self, items: Iterable[Item], progress: Progress) -> Iterator[store.Rows]:
        """What can be read and is tolerated; a batch without rows if that is none of the images there are."""
        start, encoded = time.monotonic(), 0
        transform = DividedTransform.of(self.backbone.transform)
        for batch, decoded in self._decoded(items, transform):
            readable = self._readable(batch, decoded)
            progress.advance(len(batch))
            # Once there are too many, the others are looked at all the same, so that all are named.
            if readable and len(self._missing) <= self.tolerance.images:
                encoded += len(readable)
                yield self._encoded(readable, decoded, transform)
        if len(self._missing) > self.tolerance.images:
            raise self.tolerance.refusal(self._missing)
        seconds = time.monotonic() - start
        self._facts |= {
            "missing": self._missing,
            "seconds": round(seconds, 3),
            "images_per_second": round(encoded / max(seconds, 1e-9), 2),
        }
        if self._missing and not encoded:
            yield self._nothing()

    def _nothing(self) -> store.Rows:
        side = self.backbone.input_size
        global_, local, grid = self.backbone.encode_images([Image.new("RGB", (side, side))])
        self._grid = list(grid)
        return store.Rows([], [], [], global_[:0].numpy(), local[:0].numpy(), np.empty(0, np.int16))

    def _decoded(self, items: Iterable[Item], transform: DividedTransform) -> Iterator[tuple[list[Item], Decoded]]:
        batches, ahead = tee(batched(items, self.batch_size))
        sources = ([item.source for item in batch] for batch in ahead)
        return zip(batches, decode_batches(sources, transform.on_image, self.workers), strict=True)

    def _readable(self, batch: list[Item], decoded: Decoded) -> list[Item]:
        """The items whose pixels there are; the others are recorded."""
        for position, reason in decoded.reasons.items():
            item = batch[position]
            self._missing.append({"key": item.key, "file": item.file, "reason": reason})
        return [item for position, item in enumerate(batch) if position not in decoded.reasons]

    def _encoded(self, items: list[Item], decoded: Decoded, transform: DividedTransform) -> store.Rows:
        pixels = transform.on_batch(torch.from_numpy(decoded.pixels).to(self.backbone.device))
        if self.backbone.dtype is not torch.float32 and "precision_error" not in self._facts:
            self._compare(pixels[:COMPARED])
        global_, local, grid = self.backbone.encode_pixels(pixels)
        self._grid = list(grid)
        return store.Rows(
            keys=[item.key for item in items],
            labels=[list(item.labels) for item in items],
            unknown=[list(item.unknown) for item in items],
            global_=global_.numpy(),
            local=local.numpy(),
            length=np.full(len(items), local.shape[1], dtype=np.int16),
        )

    def _compare(self, pixels: torch.Tensor) -> None:
        found = precision.error(self.backbone, self.reference(), pixels)
        self._facts["precision_error"] = found
        said = ", ".join(f"{name} {value:.2g}" for name, value in found.items())
        print(f"{self.backbone.dtype} against float32: {said}", file=sys.stderr)
