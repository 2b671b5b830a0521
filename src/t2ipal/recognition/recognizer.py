"""A trained model that recognises images: what a user's program imports."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from t2ipal.errors import UserError
from t2ipal.features.backbone import ImageEncoder
from t2ipal.features.decoding import Decoded, DividedTransform, decode_batches
from t2ipal.images import Source
from t2ipal.learning.models import localises
from t2ipal.recognition import saved
from t2ipal.recognition.saved import Saved
from t2ipal.recognition.sources import Images, Named, One, named
from t2ipal.sequences import batched

BATCH_SIZE = 32


@dataclass(frozen=True)
class Prediction:
    """What is recognised in an image; classes are in the order of ``Recognizer.labels``.

    Args:
        image: its path, or ``image N``.
        scores: [C], which order images of one class, and mean nothing else.
        probabilities: [C], calibrated; None of a model that has learned nothing to calibrate on.
        labels: the classes whose scores reach their thresholds; None as well.
        heatmaps: [C, rows, columns], each with sum 1: where a class was looked for. None unless asked for.
    """

    image: str
    scores: NDArray[np.float32]
    probabilities: NDArray[np.float64] | None
    labels: tuple[str, ...] | None
    heatmaps: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read, and why."""

    image: str
    reason: str


def _decoded_ahead(sources: Iterable[list[Source]], on_image: Callable[[Image.Image], Any]) -> Iterator[Decoded]:
    """Decode in a thread, a batch ahead: Pillow needs no lock of Python's, so the model computes meanwhile.

    Sources are taken from their iterator in the caller's thread.
    """
    waiting: deque[Future[Decoded]] = deque()
    with ThreadPoolExecutor(1, "decoding") as thread:
        for batch in sources:
            waiting.append(thread.submit(lambda batch: next(decode_batches([batch], on_image, 0)), batch))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class Recognizer:
    """A model and the image tower of its CLIP. The text tower is not loaded: the classes' embeddings are stored."""

    def __init__(self, model: Saved, encoder: ImageEncoder) -> None:
        self._model, self._encoder = model, encoder
        self._divided = DividedTransform.of(encoder.transform)
        self._check_size()

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", backbone: str | Path | None = None) -> Self:
        """Load a model's directory, ``results/training/...`` or one that ``t2ipal export`` wrote.

        Args:
            path: the directory.
            device: auto, cpu, cuda or cuda:N.
            backbone: where its CLIP is, if not where it was when the model was trained: a directory in open_clip's
                layout, a file of weights, or a hub id.

        Raises:
            UserError: the model or its CLIP is missing, damaged, of another version, or the two do not fit together.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device != "cpu" and not torch.cuda.is_available():
            raise UserError(f"device '{device}' is not there: torch sees no GPU; use cpu")
        model = saved.read(Path(path), device)
        return cls(model, saved.encoder(model, backbone, device))

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of scores, probabilities and heatmaps."""
        return self._model.head.labels

    @property
    def decides(self) -> bool:
        """Whether it gives probabilities and labels, and not only scores."""
        return self._model.calibration is not None

    @property
    def thresholds(self) -> NDArray[np.float64] | None:
        """[C] in units of the score."""
        calibration = self._model.calibration
        return None if calibration is None else calibration.thresholds

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._encoder.device

    @property
    def description(self) -> dict[str, Any]:
        """The content of ``model.json``."""
        return self._model.description

    def predict(
        self, images: Images, batch_size: int = BATCH_SIZE, heatmaps: bool = False, workers: int = 0
    ) -> list[Prediction | Unreadable]:
        """Recognise images, all of them before it returns; see ``stream``."""
        return list(self.stream(images, batch_size, heatmaps, workers))

    def stream(
        self, images: Images, batch_size: int = BATCH_SIZE, heatmaps: bool = False, workers: int = 0
    ) -> Iterator[Prediction | Unreadable]:
        """Recognise images one after the other, in memory that does not grow with their number.

        Args:
            images: a path, a folder, an image of Pillow, an array of bytes [H, W(, 3 or 4)], or an iterable of these.
            batch_size: images that are computed together.
            heatmaps: whether to give class-wise heatmaps.
            workers: processes that decode; with 0 a thread of this one does. A script that asks for some must begin its
                work under ``if __name__ == "__main__":``, as for every use of multiprocessing.

        Yields:
            For every image, in order, its prediction, or why it could not be read.

        Raises:
            UserError: a folder is empty, something is no image, or heatmaps are asked of a model that has none.
        """
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, not {batch_size}")
        if heatmaps and not localises(self._model.head):
            kind = self._model.description["head"]["kind"]
            raise UserError(
                f"model {self._model.directory} has no heatmaps, as a head of kind '{kind}' looks at images as a whole"
            )
        return self._streamed(named(images), batch_size, heatmaps, workers)

    def view(self, image: One) -> Image.Image:
        """What the tower sees of an image, cut and resized to its input; heatmaps lie over it.

        Raises:
            UserError: it cannot be read.
        """
        (found,) = decode_batches([[next(named(image)).source]], self._divided.on_image, 0)
        if found.reasons:
            raise UserError(f"an image cannot be read: {found.reasons[0]}")
        return Image.fromarray(found.pixels[0])

    def _streamed(
        self, images: Iterable[Named], size: int, heatmaps: bool, workers: int
    ) -> Iterator[Prediction | Unreadable]:
        batches, ahead = tee(batched(images, size))
        sources = ([item.source for item in batch] for batch in ahead)
        on_image = self._divided.on_image
        decoded = decode_batches(sources, on_image, workers) if workers else _decoded_ahead(sources, on_image)
        for batch, found in zip(batches, decoded, strict=True):
            yield from self._recognised([item.name for item in batch], found, heatmaps)

    def _recognised(self, names: list[str], found: Decoded, heatmaps: bool) -> Iterator[Prediction | Unreadable]:
        readable: Iterator[Prediction] = iter(())
        if len(found.reasons) < len(names):
            kept = [name for position, name in enumerate(names) if position not in found.reasons]
            readable = self._predicted(kept, found.pixels, heatmaps)
        for position, name in enumerate(names):
            yield Unreadable(name, found.reasons[position]) if position in found.reasons else next(readable)

    def _predicted(self, names: list[str], pixels: NDArray[Any], heatmaps: bool) -> Iterator[Prediction]:
        scores, maps = self._computed(pixels, heatmaps)
        if not np.isfinite(scores).all():
            raise UserError(
                f"model {self._model.directory} gives scores that are not finite; its training has diverged"
            )
        calibration = self._model.calibration
        for row, name in enumerate(names):
            probabilities, chosen = None, None
            if calibration is not None:
                probabilities = calibration.probabilities(scores[row : row + 1])[0]
                above = scores[row] >= calibration.thresholds
                chosen = tuple(label for label, is_in in zip(self.labels, above, strict=True) if is_in)
            yield Prediction(name, scores[row], probabilities, chosen, None if maps is None else maps[row])

    def _computed(self, pixels: NDArray[Any], heatmaps: bool) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        batch = self._divided.on_batch(torch.from_numpy(pixels).to(self._encoder.device))
        global_, local, grid = self._encoder.dense(batch)
        scores = self._model.head.scores(global_, local, None, len(batch)).numpy()
        if not heatmaps:
            return scores, None
        maps: Tensor = self._model.head.heatmaps(local, None, len(batch))  # type: ignore[attr-defined]
        return scores, maps.reshape(*maps.shape[:2], *grid).numpy()

    def _check_size(self) -> None:
        """Refuse a CLIP whose features do not fit the head."""
        blank = np.full((1, self._encoder.input_size, self._encoder.input_size, 3), 255, np.uint8)
        (found,) = decode_batches([[blank[0]]], self._divided.on_image, 0)
        try:
            self._computed(found.pixels, heatmaps=False)
        except RuntimeError as error:
            raise UserError(
                f"model {self._model.directory} does not fit the CLIP '{self._encoder.name}': its features are of "
                f"another size; name the one that it was trained with ({error})"
            ) from None
