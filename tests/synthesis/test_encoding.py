"""Encoded images: lossless, in both formats."""

import io

import numpy as np
import pytest
from PIL import Image

from t2ipal.synthesis.encoding import encode, encoded
from t2ipal.synthesis.gate import Drawn


@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_every_pixel_survives(image_format: str) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (24, 40, 3), dtype=np.uint8)
    for image in (noise, noise // 64, np.zeros((8, 8, 3), dtype=np.uint8)):
        opened = Image.open(io.BytesIO(encode(image, image_format)))
        assert opened.format == image_format.upper()
        assert (np.asarray(opened.convert("RGB")) == image).all()
        assert encode(image, image_format) == encode(image.copy(), image_format)


def test_what_the_gate_found_stays_with_the_file() -> None:
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    good, bad = Drawn(image, 2, ("nan", "black")), Drawn(image, 1, ("nan", "black"))
    for drawn in (good, bad):
        file = encoded(drawn, "png")
        assert (file.attempt, file.faults, file.failed) == (drawn.attempt, drawn.faults, drawn.failed)
        assert file.data == encode(image, "png")
    assert (good.failed, bad.failed) == (False, True)
