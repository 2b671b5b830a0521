from __future__ import annotations

import numpy as np

from t2ipal.openmoji.scenes import SIMPLE_STYLE, sample_scene
from t2ipal.pack.texts import alt_text, chatter, dense_caption, object_name


def test_dense_captions_name_every_object() -> None:
    for seed in range(100):
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng, "train", SIMPLE_STYLE)
        caption = dense_caption(rng, scene)
        for item in scene.objects:
            assert any(name in caption for name, _ in item.drawing.names), caption


def test_alt_texts_are_iconic_vague_and_now_and_then_beside_the_point() -> None:
    rng = np.random.default_rng(0)
    named, crowded = 0, 0
    for _ in range(600):
        scene = sample_scene(rng, "train")
        text = alt_text(rng, scene)
        assert text and "{" not in text
        shown = [item for item in scene.objects if any(name in text for name, _ in item.drawing.names)]
        if len(scene.objects) >= 3:
            crowded += 1
            named += len(shown)
    assert 0.5 < named / crowded < 2.0


def test_names_follow_their_frequency_and_flattening_lifts_the_rare() -> None:
    from t2ipal.openmoji.drawings import class_drawings

    drawing = class_drawings("train")["tvmonitor"][0]
    count = lambda flatten: sum(  # noqa: E731
        object_name(np.random.default_rng(i), drawing, flatten) == "tv monitor" for i in range(800)
    )
    assert count(1.0) < 25 < count(0.5)


def test_chatter_surrounds_half_of_the_texts_and_names_no_class() -> None:
    from t2ipal.labels import LabelSet

    rng, labels = np.random.default_rng(0), LabelSet.load("voc2007")
    texts = [chatter(rng, "a dog") for _ in range(400)]
    assert all("a dog" in text and labels.labels(text) == ("dog",) for text in texts)
    assert 0.35 < np.mean([len(text.split()) > 2 for text in texts]) < 0.55
    assert 0.3 < np.mean([text.endswith((".", "!")) for text in texts]) < 0.8
