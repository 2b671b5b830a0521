"""The report's section on where a model looks: heatmaps of classes on test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from t2ipal.reporting import figures, overlays
from t2ipal.reporting.section import Section
from t2ipal.settings import BenchmarkSettings

HEAD = ("heatmaps", "Where the model looks", "heatmaps.html.j2")


def _joined(texts: Sequence[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


@dataclass(frozen=True)
class Picture:
    """An encoded picture with its caption and the text for those who do not see it."""

    source: str
    caption: str
    alternative: str


@dataclass(frozen=True)
class Strip:
    """A test image and its heatmaps, side by side."""

    pictures: tuple[Picture, ...]
    width: int
    height: int


def _strip(found: overlays.Localisation) -> Strip:
    rows, columns = found.heatmaps.shape[1:]
    image = figures.fit(figures.centre_crop(found.image, columns / rows))
    plain = Picture(figures.data_uri(image), found.key, f"Test image {found.key}, which shows {_joined(found.classes)}")
    maps = [
        Picture(
            figures.data_uri(figures.overlay(image, weights)),
            name,
            f"Heatmap of class {name} on test image {found.key}, strongest at: {figures.peak(weights)}",
        )
        for name, weights in zip(found.classes, found.heatmaps, strict=True)
    ]
    return Strip((plain, *maps), *image.size)


def where_it_looks_section(
    model: Path, parts: Sequence[Path], benchmark: BenchmarkSettings, method: str, seed: int
) -> Section:
    """The classes of a few test images, and where the model sees them.

    Args:
        model: its directory.
        parts: of the test features.
        benchmark: has the images.
        method: that of the model.
        seed: that of the model.

    Raises:
        UserError: a file is damaged.
    """
    missing = next((path for path in (model / "model.json", *parts) if not path.is_file()), None)
    if missing is not None:
        return Section(*HEAD, {}, f"The heatmaps of {method} are not there: {missing} is missing.")
    found = overlays.localisations(model, parts, benchmark)
    content = {
        "strips": [_strip(item) for item in found],
        "method": method,
        "seed": seed,
        "scale": figures.data_uri(figures.colour_scale()),
    }
    return Section(*HEAD, content, None if found else "No test image shows a class of this model.")
