"""``t2ipal predict``: images through a model to lines, in memory that does not grow with their number."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TextIO

from t2ipal.errors import UserError
from t2ipal.features.decoding import make_ready, worker_count
from t2ipal.progress import Progress
from t2ipal.recognition import pictures
from t2ipal.recognition.recognizer import Recognizer, Unreadable
from t2ipal.recognition.sources import named
from t2ipal.recognition.writers import Format, Writer, opened


def _lines(handle: TextIO) -> Iterator[str]:
    return (line.rstrip("\n") for line in handle if line.strip())


def _paths(given: Sequence[str]) -> Iterable[str]:
    """The images named, ``-`` being those that the standard input names, one a line."""
    return _lines(sys.stdin) if list(given) == ["-"] else given


def predict(
    model: Path,
    images: Sequence[str],
    *,
    kind: Format = "text",
    output: Path | None = None,
    heatmaps: Path | None = None,
    device: str = "cpu",
    backbone: str | None = None,
    batch_size: int,
    workers: int | None = None,
) -> None:
    """Recognise images and write a line for each.

    Args:
        model: its directory.
        images: files and folders, or ``-`` alone.
        kind: of the lines.
        output: file to write; the standard output if none.
        heatmaps: directory that receives a picture for every class found in an image.
        device: cpu or cuda:N.
        backbone: see ``Recognizer.load``.
        batch_size: images that are computed together.
        workers: processes that decode; none: none on a CPU, up to 8 beside a GPU.

    Raises:
        UserError: the model, its CLIP or the images are not fit; or, after all others were written, some could not
            be read.
    """
    paths = _paths(images)
    total = sum(1 for _ in named(paths)) if isinstance(paths, Sequence) else 0
    processes = worker_count(workers, device, -(-total // batch_size) if total else workers or 1)
    make_ready(processes)
    recognizer = Recognizer.load(model, device, backbone)
    if not recognizer.decides:
        print(f"t2ipal: model {model} has learned nothing that could decide: scores only order images", file=sys.stderr)
    found = recognizer.stream(paths, batch_size, heatmaps is not None, processes)
    count, failed = 0, 0
    first: Unreadable | None = None
    # Beside lines on a terminal a bar would be in the way.
    shown = nullcontext() if output is None and sys.stdout.isatty() else Progress("recognised", total, "images")
    with opened(output) as handle, shown as progress:
        writer = Writer(handle, recognizer.labels, recognizer.decides, kind)
        for count, prediction in enumerate(found, start=1):
            writer.write(prediction)
            if progress is not None:
                progress.extend(max(0, count - progress.total))
                progress.advance(1)
            if isinstance(prediction, Unreadable):
                failed, first = failed + 1, first or prediction
            elif heatmaps is not None:
                pictures.write(heatmaps, recognizer, count, prediction)
    if not count:
        raise UserError("no image was named on the standard input")
    if first is not None:
        others = "" if count == 1 else f" ({failed:,} of {count:,} images; the others were recognised)"
        raise UserError(f"{first.image} cannot be read: {first.reason}{others}")
