from __future__ import annotations

import pytest

from t2ipal.labels.variants import variants


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("fire engine", {"fireengine"}),
        ("grey heron", {"gray heron", "greyheron"}),
        ("theatre", {"theater"}),
        ("donut", {"doughnut"}),
        ("tennis racket", {"tennis racquet", "tennisracket"}),
        ("skateboard", {"skate board"}),
        ("streetlamp", {"street lamp"}),
        ("wine glass bottle", set()),
        ("dog", set()),
    ],
)
def test_spellings_and_compounds(phrase: str, expected: set[str]) -> None:
    assert {form for form, _ in variants(phrase)} == expected


@pytest.mark.parametrize("phrase", ["greenhouse", "blackbird", "earring", "island", "fireman's", "s.u.v."])
def test_what_would_mean_something_else_is_not_split(phrase: str) -> None:
    assert list(variants(phrase)) == []


@pytest.mark.parametrize("phrase", ["couple of", "no dogs", "t shirt", "3d printer"])
def test_what_is_no_compound_is_not_joined(phrase: str) -> None:
    assert list(variants(phrase)) == []


def test_an_exclusion_is_not_joined() -> None:
    assert list(variants("cat fish", joined=False)) == []
