from __future__ import annotations

import base64
import io
import re
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from t2ipal.labels import LabelSet
from t2ipal.reporting.captions_figure import NUMBERED, draw_pairs, matrix, steps

SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"
HOSTILE = "</text><script>alert(1)</script>\"'&amp;$\\frac{$\x00\ud800"


def numbers(size: int, most: int = 40) -> np.ndarray:
    """Random symmetric counts, zero on the diagonal."""
    upper = np.triu(np.random.default_rng(size).integers(0, most + 1, (size, size)), 1)
    return upper + upper.T


def texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg.encode("utf-8"))
    return ["".join(node.itertext()).strip() for node in root.iter(f"{SVG}text")]


def cells(svg: str) -> np.ndarray:
    """The pixels of the heat map, top row first; matplotlib embeds them upside down."""
    root = ElementTree.fromstring(svg.encode("utf-8"))
    (picture,) = root.iter(f"{SVG}image")
    encoded = re.sub(r"\s", "", picture.attrib[LINK]).partition("base64,")[2]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))[::-1]


def lightness(colours: np.ndarray) -> np.ndarray:
    return colours.astype(float) @ np.array([0.299, 0.587, 0.114])


def test_each_pair_is_in_both_triangles_and_the_diagonal_is_empty():
    pairs = {"cat": {"dog": 3, "person": 1}, "dog": {"person": 5}}
    assert matrix(pairs, ["person", "cat", "dog"]).tolist() == [[0, 1, 5], [1, 0, 3], [5, 3, 0]]


def test_a_pair_of_an_unknown_class_is_an_error():
    with pytest.raises(KeyError, match="fox"):
        matrix({"cat": {"fox": 1}}, ["cat", "dog"])


@pytest.mark.parametrize(
    ("largest", "bounds"),
    [
        (0, [1, 2]),
        (1, [1, 2]),
        (10, [1, 2, 5, 10, 11]),
        (999, [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]),
        (5000, [1, 3, 10, 30, 100, 300, 1000, 3000, 5001]),
    ],
)
def test_the_steps_grow_evenly_and_the_last_one_holds_the_largest(largest: int, bounds: list[int]):
    assert steps(largest) == bounds


def test_few_classes_have_their_numbers_in_the_cells_and_many_have_not():
    few = numbers(5)
    written = texts(draw_pairs(few, list("abcde"))[0])
    for value in few[few > 0].tolist():
        assert str(value) in written
    many = texts(draw_pairs(numbers(NUMBERED + 1), [f"c{index}" for index in range(NUMBERED + 1)])[0])
    assert len(many) == 2 * (NUMBERED + 1) + len(steps(40))


@pytest.mark.parametrize("name", ["voc2007", "nuswide"])
def test_every_class_names_a_row_and_a_column(name: str):
    names = LabelSet.load(name).names
    svg, (width, height) = draw_pairs(numbers(len(names)), names)
    written = texts(svg)
    assert all(written.count(label) == 2 for label in names)
    assert width <= 1120 and height <= 1200
    assert len(svg) < 250_000


def test_more_is_darker_and_none_is_white():
    counts = np.zeros((6, 6), dtype=np.int64)
    counts[5, :5] = counts[:5, 5] = [0, 1, 3, 7, 15]
    pixels = cells(draw_pairs(counts, list("abcdef"))[0])
    side = pixels.shape[0] / 6
    middles = [int((index + 0.5) * side) for index in range(6)]
    column = [pixels[row, middles[5]] for row in middles[:5]]
    assert column[0].tolist() == [255, 255, 255]
    shades = lightness(np.array(column))
    assert all(before - after > 15 for before, after in pairwise(shades))
    assert pixels[middles[3], middles[5]].tolist() == pixels[middles[5], middles[3]].tolist()


def test_numbers_stand_out_from_their_cells():
    from matplotlib.colors import to_rgb

    from t2ipal.reporting.captions_figure import _colours, _ink

    def luminance(colour: str) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for number in range(2, 12):
        for ground in _colours(number):
            low, high = sorted((luminance(ground), luminance(_ink(ground))))
            assert (high + 0.05) / (low + 0.05) > 4.5


def test_hostile_and_long_names_stay_text():
    svg, _ = draw_pairs(numbers(3), [HOSTILE, "x" * 500, "日本"])
    root = ElementTree.fromstring(svg.encode("utf-8"))
    assert not list(root.iter(f"{SVG}script"))
    assert all(len(text) <= 20 for text in texts(svg))
    assert "日本" in texts(svg)


def test_bytes_are_equal_on_every_run_and_the_users_style_moves_nothing():
    import matplotlib

    plain = draw_pairs(numbers(4), list("abcd"))
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 20, "image.interpolation": "bilinear"}):
        assert draw_pairs(numbers(4), list("abcd")) == plain
        assert matplotlib.rcParams["font.size"] == 20


@pytest.mark.parametrize("size", [1, 2])
def test_the_smallest_label_sets_are_drawn_too(size: int):
    svg, (width, _) = draw_pairs(numbers(size, most=5000), ["a", "b"][:size])
    assert texts(svg).count("a") == 2 and width > 200
