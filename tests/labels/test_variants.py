from __future__ import annotations

import pytest

from t2ipal.labels.variants import joined, spellings


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("grey heron", [("gray heron", "other spelling")]),
        ("theatre", [("theater", "other spelling")]),
        ("donut", [("doughnut", "other spelling")]),
        ("tennis racket", [("tennis racquet", "other spelling")]),
        ("skateboard", [("skate board", "two words")]),
        ("streetlamp", [("street lamp", "two words")]),
        ("fire engine", []),
        ("dog", []),
    ],
)
def test_other_spellings_are_derived(phrase: str, expected: list[tuple[str, str]]) -> None:
    assert list(spellings(phrase)) == expected


@pytest.mark.parametrize("phrase", ["greenhouse", "blackbird", "earring", "island", "fireman's", "s.u.v."])
def test_what_would_mean_something_else_is_not_split(phrase: str) -> None:
    assert list(spellings(phrase)) == []


def test_two_words_are_joined() -> None:
    assert joined("fire engine") == "fireengine"


@pytest.mark.parametrize("phrase", ["dog", "couple of", "no dogs", "t shirt", "3d printer", "wine glass bottle"])
def test_what_is_no_compound_of_two_words_is_not_joined(phrase: str) -> None:
    assert joined(phrase) is None
