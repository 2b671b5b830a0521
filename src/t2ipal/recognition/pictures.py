"""Heatmaps as pictures: where in an image a class was found."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

from t2ipal.io import atomic_path
from t2ipal.recognition.recognizer import Prediction, Recognizer
from t2ipal.reporting.figures import overlay

# The shorter side of a picture, in pixels.
SIDE = 336


def _enlarged(view: Image.Image) -> Image.Image:
    scale = SIDE / min(view.size)
    return view.resize((round(view.width * scale), round(view.height * scale)), Image.Resampling.BICUBIC)


def _plain(text: str, length: int) -> str:
    """A text as part of a file's name, on every file system: letters, digits, hyphens."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:length]


def write(directory: Path, recognizer: Recognizer, number: int, found: Prediction) -> list[Path]:
    """Draw the heatmap of every class that was found; of the highest score if none is decided.

    Args:
        directory: receives files such as ``000012-garden-jpg-03-fox.png``: numbers and names of image and class.
        recognizer: what the prediction is of.
        number: of the image, which makes the names unique.
        found: with heatmaps, of an image file.
    """
    if found.heatmaps is None:
        return []
    chosen = found.labels if found.labels is not None else (recognizer.labels[int(found.scores.argmax())],)
    if not chosen:
        return []
    view, written = _enlarged(recognizer.view(found.image)), []
    for label in chosen:
        column = recognizer.labels.index(label)
        parts = (f"{number:06d}", _plain(Path(found.image).name, 60), f"{column:02d}", _plain(label, 40))
        path = directory / ("-".join(part for part in parts if part) + ".png")
        with atomic_path(path) as partial:
            overlay(view, found.heatmaps[column]).save(partial, "PNG")
        written.append(path)
    return written
