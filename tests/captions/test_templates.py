import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from t2ipal.captions.caption import Caption, Slot, Source
from t2ipal.captions.companions import Companions
from t2ipal.captions.duplicates import Taken
from t2ipal.captions.templates import (
    ADJECTIVES,
    FRAMES,
    PLACES,
    PromptSource,
    TemplateSource,
    article,
    enumerate_words,
    fill,
    write,
)
from t2ipal.errors import UserError
from t2ipal.labels import LabelSet
from t2ipal.pack import texts

VOC = LabelSet.load("voc2007")


def _own(tmp_path: Path, text: str) -> LabelSet:
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return LabelSet.load(path)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("dog", "a"), ("armchair", "an"), ("aeroplane", "an"), ("unicycle", "a"), ("umbrella", "an"), ("uniform", "a"),
        ("uninvited guest", "an"), ("hourglass", "an"), ("horse", "a"), ("European owl", "a"), ("ewe", "a"),
        ("one-wheeler", "a"), ("onion", "an"), ("SUV", "an"), ("TV", "a"), ("MRI scanner", "an"), ("USB stick", "a"),
        ("ATM", "an"), ("utensil", "a"), ("user", "a"), ("urn", "an"), ("bus", "a"), ("glass", "a"), ("iris", "an"),
        ("scissors", ""), ("skis", ""), ("jeans", ""), ("tennis racket", "a"),
    ],
)  # fmt: skip
def test_articles_follow_the_sound(word: str, expected: str) -> None:
    assert article(word) == expected


def test_lists_read_as_english() -> None:
    assert enumerate_words(["dog"]) == "a dog"
    assert enumerate_words(["dog", "owl"]) == "a dog and an owl"
    assert enumerate_words(["dog", "owl", "scissors"]) == "a dog, an owl and scissors"


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("place", ["", "on the road"])
def test_every_frame_gives_a_clean_sentence(frame: str, place: str) -> None:
    text = fill(frame, ["owl", "dog"], place)
    assert re.fullmatch(r"[A-Z][^{}]*[^ ,]\.", text)
    assert "  " not in text
    assert "an owl and a dog" in text.lower()
    assert (place in text) or not place


def test_frames_are_other_ones_than_those_of_the_pack() -> None:
    theirs = texts._ONE + texts._TWO + texts._THREE + texts._KIND_FRAMES + texts._VAGUE_FRAMES + texts._DENSE
    words = {" ".join(re.sub(r"\{\w+\}|[^\w\s{}]", " ", frame).lower().split()) for frame in theirs}
    ours = [" ".join(re.sub(r"\{\w+\}|[^\w\s{}]", " ", frame).lower().split()) for frame in FRAMES]
    assert len(set(ours)) == len(FRAMES) >= 15
    assert not words & set(ours)


def test_frames_and_places_name_no_class_and_no_other_object_of_the_pack() -> None:
    from t2ipal.openmoji.drawings import web_drawings

    text = " ".join(fill(frame, ["zzz"], place) for frame in FRAMES for place in PLACES)
    assert VOC.labels(text) == ()
    assert not {name for item in web_drawings() for name, _ in item.names} & set(text.lower().split())


@pytest.mark.parametrize("total", [1, 20, 210, 1200])
def test_every_class_leads_equally_often(total: int) -> None:
    captions = write(VOC, total, max_classes=2, seed=3)
    assert len(captions) == len({caption.text for caption in captions}) == total
    counts = Counter(caption.requested[0] for caption in captions)
    assert max(counts.values()) - min(counts[name] for name in VOC.names) <= 1


def test_companions_and_sizes_are_spread_as_documented() -> None:
    captions = write(VOC, 2000, max_classes=2, seed=0)
    sizes = Counter(len(caption.requested) for caption in captions)
    assert 1 / 3 < sizes[1] / 2000 < 1 / 2
    assert set(sizes) == {1, 2}
    companions = Counter(caption.requested[1] for caption in captions if len(caption.requested) == 2)
    assert min(companions[name] for name in VOC.names) > 30
    assert all(len(set(caption.requested)) == len(caption.requested) for caption in captions)
    with_place = sum(any(place in caption.text for place in PLACES) for caption in captions)
    assert 0.45 < with_place / 2000 < 0.55


def test_a_third_of_the_mentions_are_synonyms() -> None:
    captions = write(VOC, 2000, max_classes=1, seed=0)
    dogs = [caption.text for caption in captions if caption.requested == ("dog",)]
    assert 0.15 < sum("puppy" in text for text in dogs) / len(dogs) < 0.55
    assert sum("dog" in text for text in dogs) > len(dogs) / 3


@pytest.mark.parametrize("max_classes", [1, 2, 4])
def test_what_is_mined_is_what_was_asked_for(max_classes: int) -> None:
    captions = write(VOC, 600, max_classes, seed=1)
    assert all(set(caption.labels) == set(caption.requested) for caption in captions)
    assert max(len(caption.labels) for caption in captions) == max_classes
    assert all(caption.labels == VOC.labels(caption.text) for caption in captions)


def test_captions_depend_on_the_seed_and_on_nothing_else() -> None:
    assert write(VOC, 100, 2, seed=5) == write(VOC, 100, 2, seed=5)
    assert write(VOC, 100, 2, seed=5) != write(VOC, 100, 2, seed=6)


def test_labels_are_mined_even_where_frames_name_a_class(tmp_path: Path) -> None:
    labels = _own(tmp_path, "classes: [room, fox]")
    captions = write(labels, 60, 1, seed=0)
    foxes = [caption for caption in captions if caption.requested == ("fox",) and "in a room" in caption.text]
    assert foxes
    assert all(caption.labels == ("room", "fox") for caption in foxes)


def test_more_classes_than_the_set_has_are_not_asked_for(tmp_path: Path) -> None:
    captions = write(_own(tmp_path, "classes: [fox, owl]"), 40, 5, seed=0)
    assert {len(caption.requested) for caption in captions} == {1, 2}


def _serve(source: Source, rounds: int) -> list[Caption | None]:
    register = Taken(near=False)
    slots = [[Slot(20 * r + i, name) for i, name in enumerate(VOC.names)] for r in range(rounds)]
    return [caption for r in range(rounds) for caption in source.serve(slots[r], register)]


def test_attributes_stand_before_a_third_of_the_classes_and_change_no_label() -> None:
    rng = np.random.default_rng(0)
    served = _serve(TemplateSource(VOC, Companions(VOC, 1), rng, attributes=True), 30)
    captions = [caption for caption in served if caption is not None]
    assert len(captions) == 600
    assert all(caption.labels == caption.requested for caption in captions)
    described = [c for c in captions if re.search(rf"\b({'|'.join(ADJECTIVES)}) \w", c.text, re.IGNORECASE)]
    assert len(described) / 600 == pytest.approx(1 / 3, abs=0.06)
    assert not any(re.search(r"\ba (old|aero|arm)", caption.text) for caption in captions)


def test_the_usual_prompts_are_used_each_once_and_then_there_are_none() -> None:
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    source = PromptSource(VOC, seed=1)
    cats = [caption for caption in _serve(source, 81) if caption is not None and caption.requested == ("cat",)]
    words = (VOC.prompt_name("cat"), *VOC.synonyms["cat"])
    assert len(cats) == min(81, 80 * len(words))
    texts = {template(word) for word in words for template in OPENAI_IMAGENET_TEMPLATES}
    assert len({caption.text for caption in cats}) == len(cats)
    assert {caption.text for caption in cats} <= texts
    assert [c.text for c in _serve(PromptSource(VOC, seed=1), 2) if c] != [
        c.text for c in _serve(PromptSource(VOC, seed=2), 2) if c
    ]


def test_names_with_braces_and_markup_stay_text(tmp_path: Path) -> None:
    captions = write(_own(tmp_path, "classes: ['{list} <b>fox</b>']"), 5, 2, seed=0)
    assert all("{list} <b>fox</b>" in caption.text and caption.labels for caption in captions)


def test_all_distinct_captions_can_be_had_and_not_one_more(tmp_path: Path) -> None:
    labels = _own(tmp_path, "classes: [fox]")
    most = len(FRAMES) * (len(PLACES) + 1)
    assert len(write(labels, most, 1, seed=0)) == most
    with pytest.raises(UserError, match=r"captions\.total.*'fox'"):
        write(labels, most + 1, 1, seed=0)
