"""Scenes: a background and a few drawings on it, sampled and rendered deterministically from a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2ipal.openmoji.drawings import Drawing, Split, class_drawings, distractors, web_drawings
from t2ipal.openmoji.sprites import sprite

SIZE = 64
Pixels = NDArray[np.uint8]

BACKGROUNDS = ("plain", "sky", "grass", "sea", "beach", "road", "room", "snow", "night", "stripes")
CONTEXTS = (
    ("chair", "diningtable", "sofa", "tvmonitor", "pottedplant", "bottle", "cat", "dog", "person"),
    ("bicycle", "bus", "car", "motorbike", "train", "person", "dog"),
    ("bird", "cow", "horse", "sheep", "dog", "person"),
    ("aeroplane", "bird", "boat", "person"),
)
PERSON_WEIGHT = 2.5
OTHER_PALETTE = 0.6
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Look:
    """How a drawing is placed and coloured. Lengths are fractions of the canvas, angles degrees.

    ``palette`` is the number of a random palette, 0 the drawing's own colours.
    """

    x: float
    y: float
    size: float
    angle: float
    shear: float
    stretch: float
    flip: bool
    hue: float
    saturation: float
    brightness: float
    palette: int = 0


@dataclass(frozen=True)
class SceneObject:
    """A drawing in a scene."""

    drawing: Drawing
    look: Look


@dataclass(frozen=True)
class Scene:
    """A background (kind, seed of its colours) and objects from back to front."""

    background: str
    background_seed: int
    objects: tuple[SceneObject, ...]

    def labels(self) -> frozenset[str]:
        """The classes that the scene shows."""
        return frozenset(name for item in self.objects for name in item.drawing.classes)


@dataclass(frozen=True)
class SceneStyle:
    """How crowded and varied scenes are.

    ``counts`` and ``distractors`` are odds (of 1, 2, ... labelled and of 0, 1, ... other objects), ``sizes`` the
    range of sizes for each count, ``drawings`` how many drawings of a class are used (all if None), ``web`` the
    share of labelled objects that give way to one of the web's, ``palettes`` how many random ones a drawing has
    beside its own colours.
    """

    counts: tuple[float, ...] = (0.3, 0.35, 0.2, 0.15)
    distractors: tuple[float, ...] = (0.4, 0.4, 0.2)
    sizes: tuple[tuple[float, float], ...] = ((0.45, 0.8), (0.4, 0.6), (0.34, 0.5), (0.3, 0.46))
    angle: float = 20.0
    hue: float = 30.0
    variety: float = 1.0
    drawings: int | None = None
    web: float = 0.0
    palettes: int = 0


BENCHMARK_STYLE = SceneStyle()
SIMPLE_STYLE = SceneStyle(
    counts=(0.65, 0.35),
    distractors=(1.0,),
    sizes=((0.6, 0.85), (0.44, 0.58)),
    angle=5.0,
    hue=8.0,
    variety=0.3,
    drawings=2,
)
WEB_STYLE = SceneStyle(web=0.4, palettes=6)


def _held_out(rng: np.random.Generator, split: Split) -> tuple[float, float]:
    """Hue and shear that training scenes never use; test and validation use different ones."""
    centre = 180.0 if split == "test" else rng.choice([-95.0, 95.0])
    return float(centre + rng.uniform(-25, 25)), float(rng.choice([-1, 1]) * rng.uniform(0.25, 0.4))


def _sample_look(
    rng: np.random.Generator, drawing: Drawing, place: tuple[float, float, float], style: SceneStyle, split: Split
) -> Look:
    variety = style.variety
    hue, shear = rng.uniform(-style.hue, style.hue), rng.uniform(-0.15, 0.15) * variety
    if drawing.held_out_appearance:
        hue, shear = _held_out(rng, split)
    return Look(
        *place,
        angle=rng.uniform(-style.angle, style.angle),
        shear=shear,
        stretch=math.exp(rng.uniform(-0.18, 0.18) * variety),
        flip=bool(rng.random() < 0.5),
        hue=hue,
        saturation=1 + rng.uniform(-0.4, 0.3) * variety,
        brightness=1 + rng.uniform(-0.25, 0.15) * variety,
        palette=int(rng.integers(1, style.palettes + 1)) if style.palettes and rng.random() < OTHER_PALETTE else 0,
    )


def _place(rng: np.random.Generator, taken: list[tuple[float, float, float]], low: float, high: float) -> bool:
    """Append a place (x, y, size) that overlaps little with those taken; False when none was found."""
    for _ in range(12):
        size = rng.uniform(low, high)
        x, y = rng.uniform(size / 2, 1 - size / 2, 2) if size < 1 else (0.5, 0.5)
        if all(max(abs(x - u), abs(y - v)) > 0.4 * (size + s) for u, v, s in taken):
            taken.append((float(x), float(y), float(size)))
            return True
    return False


def _sample_classes(rng: np.random.Generator, count: int, names: tuple[str, ...]) -> list[str]:
    """Distinct-ish classes: half of the scenes keep to one context, as in photographs."""
    context = CONTEXTS[rng.integers(len(CONTEXTS))] if count > 1 and rng.random() < 0.5 else names
    weights = np.array([PERSON_WEIGHT if name == "person" and count > 1 else 1.0 for name in context])
    chosen = rng.choice(len(context), size=count, p=weights / weights.sum(), replace=True)
    return [context[i] for i in chosen]


def _of_the_web(rng: np.random.Generator) -> Drawing:
    return web_drawings()[rng.integers(len(web_drawings()))]


def sample_scene(
    rng: np.random.Generator, split: Split, style: SceneStyle = BENCHMARK_STYLE, classes: list[str] | None = None
) -> Scene:
    """Draw a scene whose labelled drawings come from ``split``.

    ``classes`` fixes the labelled objects; otherwise their number follows ``style`` and their kind a
    mild co-occurrence model. Objects for which no free place is found are left out, never the first.
    """
    pool = {name: drawings[: style.drawings] for name, drawings in class_drawings(split).items()}
    count = len(classes) if classes else 1 + int(rng.choice(len(style.counts), p=style.counts))
    chosen = classes or _sample_classes(rng, count, tuple(pool))
    extra = int(rng.choice(len(style.distractors), p=style.distractors))
    drawings = [pool[name][rng.integers(len(pool[name]))] for name in chosen]
    if style.web:
        drawings = [_of_the_web(rng) if rng.random() < style.web else drawing for drawing in drawings]
    others = distractors(split)
    drawings += [others[rng.integers(len(others))] for _ in range(extra)]
    low, high = style.sizes[min(count, len(style.sizes)) - 1]
    taken: list[tuple[float, float, float]] = []
    objects = []
    for index, drawing in enumerate(drawings):
        shrink = 1.0 if index < count else 0.75
        if _place(rng, taken, low * shrink, high * shrink):
            objects.append(SceneObject(drawing, _sample_look(rng, drawing, taken[-1], style, split)))
    return Scene(str(rng.choice(BACKGROUNDS)), int(rng.integers(2**31)), tuple(objects))


def hue_rotation(degrees: float) -> NDArray[np.float64]:
    """[3, 3]: rotation of RGB about the grey axis (Rodrigues' formula)."""
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    third, root = (1 - cos) / 3, math.sqrt(1 / 3) * sin
    rotation = np.full((3, 3), third) + np.eye(3) * cos
    rotation += root * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    return rotation


def _colour_matrix(look: Look) -> NDArray[np.float32]:
    """Rotation of hue, then saturation and brightness, as one 3x3 matrix."""
    rotation = hue_rotation(look.hue)
    grey = np.tile(_LUMA, (3, 1))
    saturate = look.saturation * np.eye(3) + (1 - look.saturation) * grey
    return (look.brightness * saturate @ rotation).astype(np.float32)


def _paste(canvas: NDArray[np.float32], item: SceneObject) -> None:
    """Blend one object into ``canvas`` [SIZE, SIZE, 3] in place."""
    look, extent = item.look, item.look.size * SIZE
    image = sprite(item.drawing, extent, look.palette)
    scale = extent / max(image.size)
    half = math.ceil(extent * 0.75) + 1
    centre_x, centre_y = look.x * SIZE, look.y * SIZE
    left, top = math.floor(centre_x) - half, math.floor(centre_y) - half
    cos, sin = math.cos(math.radians(look.angle)), math.sin(math.radians(look.angle))
    wide, tall = scale * look.stretch**0.5, scale / look.stretch**0.5
    forward = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, look.shear], [0, 1]])
    forward = forward @ np.diag([-wide if look.flip else wide, tall])
    inverse = np.linalg.inv(forward)
    offset = np.array(image.size) / 2 - inverse @ np.array([centre_x - left, centre_y - top])
    coefficients = (*inverse[0], offset[0], *inverse[1], offset[1])
    patch = image.transform(
        (2 * half, 2 * half), Image.Transform.AFFINE, coefficients, resample=Image.Resampling.BILINEAR
    )
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + 2 * half, SIZE), min(top + 2 * half, SIZE)
    pixels = np.asarray(patch)[y0 - top : y1 - top, x0 - left : x1 - left].astype(np.float32)
    alpha = pixels[..., 3:]
    colour = np.clip(pixels[..., :3] @ _colour_matrix(look).T, 0, alpha)
    region = canvas[y0:y1, x0:x1]
    region *= 1 - alpha / 255
    region += colour


_COLOURS = {
    "sky": ((150, 200, 240), (205, 230, 250)),
    "grass": ((160, 205, 240), (110, 170, 80)),
    "sea": ((190, 220, 240), (60, 120, 180)),
    "beach": ((150, 200, 230), (230, 210, 150)),
    "road": ((190, 200, 200), (120, 120, 125)),
    "room": ((225, 210, 190), (160, 120, 85)),
    "snow": ((200, 215, 230), (240, 245, 250)),
    "night": ((25, 25, 60), (50, 50, 75)),
}


def _background(kind: str, seed: int) -> NDArray[np.float32]:
    """[SIZE, SIZE, 3] in 0..255: an upper and a lower colour with a horizon, a plain colour, or stripes."""
    rng = np.random.default_rng(seed)
    canvas = np.empty((SIZE, SIZE, 3), dtype=np.float32)
    if kind in _COLOURS:
        upper, lower = (np.clip(np.array(c) + rng.normal(0, 14, 3), 0, 255) for c in _COLOURS[kind])
        horizon = int(SIZE * rng.uniform(0.35, 0.7))
        canvas[:horizon], canvas[horizon:] = upper, lower
        if kind == "sky":
            ramp = np.linspace(0, 1, SIZE)[:, None, None]
            canvas[:] = upper * (1 - ramp) + lower * ramp
    else:
        first = rng.uniform(70, 250, 3)
        canvas[:] = first
        if kind == "stripes":
            second = np.clip(first + rng.normal(0, 40, 3), 0, 255)
            period, slope = rng.uniform(6, 16), rng.uniform(-1, 1)
            rows, columns = np.mgrid[:SIZE, :SIZE]
            canvas[np.floor((rows + slope * columns) / period) % 2 == 0] = second
    return canvas


def render(scene: Scene) -> Pixels:
    """The scene as [64, 64, 3] uint8."""
    canvas = _background(scene.background, scene.background_seed)
    for item in scene.objects:
        _paste(canvas, item)
    pixels: Pixels = np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
    return pixels
