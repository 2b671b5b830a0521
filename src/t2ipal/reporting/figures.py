"""The pictures of the report: enlarged images, heatmap overlays and their colour scale, as data URIs."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

EDGE = 192
# Dark blue to yellow, of rising lightness, so that it reads in grey and for the colour-blind too.
_ANCHORS = np.array([(12, 7, 78), (84, 15, 109), (187, 55, 84), (249, 142, 9), (252, 255, 164)], dtype=np.float32)
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_PLACES = (("upper left", "top", "upper right"), ("left", "centre", "right"), ("lower left", "bottom", "lower right"))


def fit(image: Image.Image) -> Image.Image:
    """RGB, longest edge at most ``EDGE``: small images enlarged by a whole factor, so that pixels stay crisp."""
    image = image.convert("RGB")
    longest = max(image.size)
    if longest <= EDGE:
        factor = EDGE // longest
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    size = (max(1, round(image.width * EDGE / longest)), max(1, round(image.height * EDGE / longest)))
    return image.resize(size, Image.Resampling.LANCZOS)


def centre_crop(image: Image.Image, aspect: float) -> Image.Image:
    """The largest centred part of ``image`` with width / height = ``aspect``: what CLIP's preprocessing keeps."""
    width = min(image.width, max(1, round(image.height * aspect)))
    height = min(image.height, max(1, round(image.width / aspect)))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def colours(strength: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colours [..., 3] in 0..255 of values [...] in 0..1."""
    position = np.clip(strength, 0, 1) * (len(_ANCHORS) - 1)
    stops = np.arange(len(_ANCHORS))
    channels = [np.interp(position, stops, _ANCHORS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def stretch(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """``weights`` moved to 0..1; all zero when they are all equal."""
    low, high = float(weights.min()), float(weights.max())
    return (weights - low) / (high - low) if high > low else np.zeros_like(weights)


def overlay(image: Image.Image, weights: NDArray[np.float32]) -> Image.Image:
    """``image`` in pale grey under the colours of ``weights`` [rows, columns], interpolated between the positions."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    grid = Image.fromarray(stretch(weights.astype(np.float32)))
    strength = np.asarray(grid.resize(image.size, Image.Resampling.BILINEAR), dtype=np.float32)
    ground = 0.35 * pixels + 0.65 * (pixels @ _LUMA)[..., None]
    opacity = 0.3 + 0.4 * strength[..., None]
    return Image.fromarray(np.clip((1 - opacity) * ground + opacity * colours(strength), 0, 255).astype(np.uint8))


def peak(weights: NDArray[np.float32]) -> str:
    """In words, where ``weights`` [rows, columns] are largest: for those who do not see the picture."""
    row, column = np.unravel_index(int(weights.argmax()), weights.shape)
    rows, columns = weights.shape
    return _PLACES[int(3 * (row + 0.5) / rows)][int(3 * (column + 0.5) / columns)]


def colour_scale() -> Image.Image:
    """The colours from the smallest to the largest weight, left to right."""
    ramp = np.tile(np.linspace(0, 1, EDGE, dtype=np.float32), (12, 1))
    return Image.fromarray(colours(ramp).astype(np.uint8))


def data_uri(image: Image.Image, lossless: bool = False) -> str:
    """The image as a WebP ``data:`` URI."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=lossless, quality=85, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
