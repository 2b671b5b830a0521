from __future__ import annotations

import random

import pytest

from t2ipal.labels.tokens import TOKEN, fold, normalise, spans, tokenise


def test_normalisation_drops_case_punctuation_and_possessives() -> None:
    assert normalise("The Dog\u2019s T.V. — it's café-style!") == ("the", "dog", "t", "v", "it", "café", "style")


def test_unicode_forms_do_not_matter() -> None:
    assert normalise("\uff24\uff2f\uff27 caf\u00e9") == ("dog", "caf\u00e9")
    assert normalise("STRASSE") == normalise("Straße")


def test_punctuation_that_ends_a_phrase_is_a_token() -> None:
    assert tokenise("a bus, 3.5 m (long).") == ["a", "bus", ",", "3", "5", "m", "(", "long", ")", "."]


@pytest.mark.parametrize("alphabet", ["abs'ST09_ .,;:!?()[]|-\n\t\"\u2019é", 'abST09_ .,;:!?()[]|-\n\t"'])
def test_shortcuts_for_ascii_find_the_same_tokens_at_the_same_places(alphabet: str) -> None:
    rng = random.Random(0)
    for _ in range(20_000):
        text = "".join(rng.choice(alphabet) for _ in range(rng.randint(0, 14)))
        words, found = tokenise(text), list(TOKEN.finditer(text))
        assert words == [fold(match.group()) for match in found]
        some = rng.randint(0, len(words))
        places = spans(text, words[:some])
        for word, place, match in zip(words[:some], places, found, strict=False):
            assert place == match.span() or not word.isalnum(), text
