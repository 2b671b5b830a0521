from __future__ import annotations

import numpy as np
import pytest

from t2ipal.openmoji import sprites
from t2ipal.openmoji.drawings import SPLITS, Drawing, class_drawings, class_names, distractors, web_drawings
from t2ipal.openmoji.scenes import SIMPLE_STYLE, SIZE, WEB_STYLE, Scene, render, sample_scene


def _codes(split: str) -> set[tuple[str, bool]]:
    return {
        (drawing.code, drawing.in_pot)
        for group in class_drawings(split).values()  # type: ignore[arg-type]
        for drawing in group
        if not drawing.held_out_appearance
    }


def test_no_drawing_stands_in_two_splits() -> None:
    train, val, test = (_codes(split) for split in SPLITS)
    assert not train & val and not train & test and not val & test
    plain = [drawing.code for drawing in (*web_drawings(), *distractors("val"), *distractors("test"))]
    assert len(plain) == len(set(plain))
    assert not set(plain) & {code for code, _ in train | val | test}


def test_every_class_has_drawings_in_every_split_and_borrowed_ones_are_marked() -> None:
    assert len(class_names()) == 20
    for split in SPLITS:
        for name, drawings in class_drawings(split).items():
            assert drawings and all(drawing.classes[0] == name for drawing in drawings)
            assert split != "train" or not any(drawing.held_out_appearance for drawing in drawings)


def test_every_drawing_is_installed() -> None:
    sprites.check(
        [
            *(d for s in SPLITS for group in class_drawings(s).values() for d in group),
            *web_drawings(),
            *distractors("val"),
            *distractors("test"),
        ]
    )
    with pytest.raises(sprites.MissingDrawingError, match="FFFFF"):
        sprites.check([Drawing("FFFFF", (), ())])


def test_scenes_follow_from_their_seed() -> None:
    first, again, other = (render(sample_scene(np.random.default_rng(seed), "test")) for seed in (3, 3, 4))
    assert first.shape == (SIZE, SIZE, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_labels_are_the_classes_of_what_was_placed() -> None:
    for seed in range(200):
        scene = sample_scene(np.random.default_rng(seed), "test")
        assert scene.labels() == {name for item in scene.objects for name in item.drawing.classes}
        assert 1 <= sum(bool(item.drawing.classes) for item in scene.objects) <= 4


def test_objects_are_drawn_where_they_are_placed() -> None:
    scene = sample_scene(np.random.default_rng(1), "train", SIMPLE_STYLE, classes=["dog"])
    empty = Scene(scene.background, scene.background_seed, ())
    changed = np.abs(render(scene).astype(int) - render(empty)).sum(-1) > 0
    rows, columns = np.nonzero(changed)
    look = scene.objects[0].look
    assert changed.mean() > 0.05
    assert abs(columns.mean() / SIZE - look.x) < 0.1 and abs(rows.mean() / SIZE - look.y) < 0.1


def test_held_out_appearance_has_hue_and_shear_that_training_scenes_never_have() -> None:
    borrowed = [
        item.look
        for seed in range(300)
        for item in sample_scene(np.random.default_rng(seed), "test", classes=["sofa"]).objects
        if item.drawing.held_out_appearance
    ]
    trained = [
        item.look
        for seed in range(300)
        for item in sample_scene(np.random.default_rng(seed), "train", classes=["sofa"]).objects
    ]
    assert min(look.hue for look in borrowed) > 150 > max(look.hue for look in trained)
    assert min(abs(look.shear) for look in borrowed) >= 0.25 > max(abs(look.shear) for look in trained)


def test_simple_scenes_use_few_drawings_and_no_distractors() -> None:
    allowed = {drawing.code for group in class_drawings("train").values() for drawing in group[:2]}
    for seed in range(200):
        for item in sample_scene(np.random.default_rng(seed), "train", SIMPLE_STYLE).objects:
            assert item.drawing.code in allowed


def test_scenes_of_the_web_show_more_objects_in_more_colours_and_the_benchmark_does_not() -> None:
    web = {drawing.code for drawing in web_drawings()} - {drawing.code for drawing in distractors("train")}
    seen = [item for i in range(200) for item in sample_scene(np.random.default_rng(i), "train", WEB_STYLE).objects]
    assert 0.1 < np.mean([item.drawing.code in web for item in seen]) < 0.5
    assert {item.look.palette for item in seen} == set(range(WEB_STYLE.palettes + 1))
    for item in (item for i in range(200) for item in sample_scene(np.random.default_rng(i), "train").objects):
        assert item.drawing.code not in web and item.look.palette == 0


def test_a_palette_changes_the_colours_of_a_drawing_but_not_its_shape() -> None:
    for name in ("dog", "pottedplant"):
        for drawing in class_drawings("train")[name]:
            own, other, again = (np.asarray(sprites.sprite(drawing, 90, palette)) for palette in (0, 3, 3))
            assert np.array_equal(own[..., 3], other[..., 3]) and np.array_equal(other, again)
            assert np.abs(own[..., :3].astype(int) - other[..., :3]).mean() > 2
