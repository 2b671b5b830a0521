from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from t2ipal.reporting import figures


def test_small_images_are_enlarged_threefold_with_crisp_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    large = np.asarray(figures.fit(Image.fromarray(pixels)))
    assert np.array_equal(large, pixels.repeat(3, axis=0).repeat(3, axis=1))


@pytest.mark.parametrize("size", [(1000, 500), (500, 1000), (5000, 1), (193, 193)])
def test_large_images_are_shrunk_to_the_edge(size):
    fitted = figures.fit(Image.new("L", size))
    assert max(fitted.size) == figures.EDGE and fitted.mode == "RGB"


@pytest.mark.parametrize(("aspect", "size"), [(1.0, (40, 40)), (2.0, (80, 40)), (5.0, (100, 20)), (0.5, (20, 40))])
def test_the_crop_is_centred_and_of_the_asked_aspect(aspect, size):
    image = Image.new("RGB", (100, 40))
    image.putpixel((50, 20), (255, 255, 255))
    cropped = figures.centre_crop(image, aspect)
    assert cropped.size == size
    assert cropped.getpixel((size[0] // 2, size[1] // 2)) == (255, 255, 255)


def test_colours_rise_in_lightness():
    lightness = figures.colours(np.linspace(0, 1, 50, dtype=np.float32)) @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(lightness) > 0).all()


def test_the_overlay_is_brightest_where_the_weight_is_largest():
    weights = np.zeros((4, 4), dtype=np.float32)
    weights[0, 3] = 1
    bright = np.asarray(figures.overlay(Image.new("RGB", (64, 64), (90, 90, 90)), weights)).sum(axis=-1)
    row, column = np.unravel_index(bright.argmax(), bright.shape)
    assert row < 16 and column >= 48


def test_a_flat_heatmap_gives_an_even_overlay():
    even = np.asarray(figures.overlay(Image.new("RGB", (8, 8)), np.full((2, 2), 0.25, dtype=np.float32)))
    assert (even == even[0, 0]).all()


@pytest.mark.parametrize(("place", "words"), [((0, 0), "upper left"), ((2, 2), "centre"), ((4, 2), "bottom")])
def test_the_peak_is_told_in_words(place, words):
    weights = np.zeros((5, 5), dtype=np.float32)
    weights[place] = 1
    assert figures.peak(weights) == words


def test_a_lossless_data_uri_decodes_to_the_same_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    head, _, encoded = figures.data_uri(Image.fromarray(pixels), lossless=True).partition(",")
    assert head == "data:image/webp;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))), pixels)
