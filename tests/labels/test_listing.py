from __future__ import annotations

from pathlib import Path

import pytest

from t2ipal.labels import LabelSet
from t2ipal.labels.listing import explanation, listing

OWN = """
lists:
  colour: [red, blue]
classes:
  dog: {display: Dog, synonyms: [hound], exclusions: [hot dog, "dog (rose)"], implies: [animal]}
  animal: {}
  jersey: {kinds: [<colour> jersey]}
shared:
  police dog: [dog, jersey]
"""


@pytest.fixture
def own(tmp_path: Path) -> LabelSet:
    (tmp_path / "own.yaml").write_text(OWN, encoding="utf-8")
    return LabelSet.load(tmp_path / "own.yaml")


def _lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_a_listing_says_of_every_phrase_whether_it_is_stated_or_derived(own: LabelSet) -> None:
    lines = _lines(listing(own))
    assert "dog (prompt 'dog'; display 'Dog'; implies animal)" in lines
    for line in (
        "hound stated synonyms",
        "hounds derived synonyms: plural of 'hound'",
        "hot dog stated exclusions",
        "dog (rose) stated exclusions",
        "police dog stated shared (dog, jersey)",
        "policedogs derived shared (dog, jersey): one word of 'police dogs'",
        "red jersey stated kinds",
        "blue jerseys derived kinds: plural of 'blue jersey'",
    ):
        assert line in lines
    assert len(lines) == 4 + len(own.entries())


def test_an_explanation_says_where_each_label_comes_from(own: LabelSet) -> None:
    assert _lines(explanation(own, "Hounds, hot dogs, a dog rose, a blue jersey")) == [
        "Hounds, hot dogs, a dog rose, a blue jersey",
        "0-6 Hounds dog (so animal) classes.dog.synonyms: hounds (plural of 'hound')",
        "8-16 hot dogs excluded classes.dog.exclusions: hot dogs (plural of 'hot dog')",
        "20-23 dog excluded classes.dog.exclusions: dog (rose)",
        "32-43 blue jersey jersey classes.jersey.kinds: blue jersey",
        "labels: dog, animal, jersey",
    ]


def test_an_explanation_marks_what_a_filter_dropped(own: LabelSet) -> None:
    shown = _lines(explanation(own, "a dog", dropped=own.mine("a dog")))
    assert shown == ["a dog", "2-5 dog no noun: dog (so animal) classes.dog: dog", "labels: none"]


def test_a_text_without_mentions_has_no_labels(own: LabelSet) -> None:
    assert _lines(explanation(own, "nothing here")) == ["nothing here", "labels: none"]
