"""Images as the bytes of files, lossless."""

from __future__ import annotations

import io
from dataclasses import dataclass

from t2ipal.synthesis.gate import ByteImage, Drawn, Fault, Tried

# Effort of lossless WebP, 0..6: see docs/log.md for the speeds and sizes behind this choice.
WEBP_METHOD = 2


@dataclass(frozen=True)
class Encoded(Tried):
    """A drawn image as the bytes of a PNG or WebP file."""

    data: bytes
    attempt: int
    faults: tuple[Fault, ...]


def encode(image: ByteImage, image_format: str) -> bytes:
    """[H, W, 3] uint8 -> the bytes of a lossless PNG or WebP. Other threads run meanwhile."""
    from PIL import Image

    buffer = io.BytesIO()
    lossless = {"lossless": True, "method": WEBP_METHOD} if image_format == "webp" else {}
    Image.fromarray(image).save(buffer, image_format, **lossless)
    return buffer.getvalue()


def encoded(drawn: Drawn, image_format: str) -> Encoded:
    """A drawn image with its pixels encoded."""
    return Encoded(encode(drawn.image, image_format), drawn.attempt, drawn.faults)
