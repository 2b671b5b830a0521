from __future__ import annotations

import numpy as np
import pytest

from t2ipal.captions.duplicates import Taken, normalised

WORDS = [f"w{index}" for index in range(60)]


def _similar(one: str, other: str) -> bool:
    a, b = set(one.split()), set(other.split())
    return len(a & b) / len(a | b) >= 0.8 - 1e-12


def slow_admissions(texts: list[str], near: bool) -> list[bool]:
    """Every text against every admitted one."""
    admitted: list[str] = []
    seen: set[str] = set()
    answers = []
    for text in texts:
        fresh = text not in seen and not (near and any(_similar(text, other) for other in admitted))
        seen.add(text)
        admitted += [text] if fresh else []
        answers.append(fresh)
    return answers


def _texts(rng: np.random.Generator, count: int) -> list[str]:
    """Random word sequences of all lengths, common and rare words, among them changed copies of earlier ones."""
    texts: list[str] = []
    odds = 1 / np.arange(1, len(WORDS) + 1)
    for _ in range(count):
        if texts and rng.random() < 0.6:
            words = texts[rng.integers(len(texts))].split()
            for _ in range(rng.integers(0, 3)):
                place = int(rng.integers(len(words)))
                words[place : place + int(rng.integers(2))] = [str(rng.choice(WORDS)) for _ in range(rng.integers(2))]
                words = words or [WORDS[0]]
        else:
            size = int(rng.integers(1, 25))
            words = [str(word) for word in rng.choice(WORDS, size=size, p=odds / odds.sum())]
        texts.append(" ".join(words))
    return texts


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_admissions_are_those_of_a_comparison_with_every_text(near: bool, seed: int) -> None:
    texts = _texts(np.random.default_rng(seed), 400)
    taken = Taken(near)
    expected = slow_admissions(texts, near)
    assert [taken.admit(text) for text in texts] == expected
    assert taken.count == sum(expected)
    assert 50 < sum(expected) < 350


@pytest.mark.parametrize(
    "again", ["a dog on the sofa", "A dog on a sofa.", " Dog,  on the\tSOFA! ", "“A dog on the sofa”", "DOG ON SOFA"]
)
@pytest.mark.parametrize("near", [False, True])
def test_case_punctuation_articles_and_spaces_make_no_new_text(again: str, near: bool) -> None:
    taken = Taken(near)
    assert taken.admit("A dog on the sofa")
    assert not taken.admit(again)
    assert taken.count == 1


def test_forms_of_unicode_make_no_new_text() -> None:
    assert normalised("Cafe\u0301 STRASSE") == normalised("café straße") == "café strasse"


NEAR = [
    ("A couple of zebras are standing in a field", "a couple of zebras are standing in a green field"),
    ("A train traveling down train tracks next to a building.", "A train down train tracks next to a building"),
    ("A man and a woman ride two bicycles on the beach road", "On the beach road a man and a woman ride bicycles"),
]  # fmt: skip
FAR = [
    ("A dog on a sofa", "A cat on a sofa"),
    ("A photo of a dog in the park", "A photo of a horse in the park"),
    ("A dog", "A dog sleeps"),
    ("A red bus turns into a narrow street at night", "A red bus waits at the end of a narrow street"),
]


@pytest.mark.parametrize(("one", "other"), NEAR)
def test_nearly_the_same_words_are_refused_only_with_near(one: str, other: str) -> None:
    near, exact = Taken(near=True), Taken()
    assert [near.admit(one), near.admit(other)] == [True, False]
    assert [exact.admit(one), exact.admit(other)] == [True, True]
    assert (near.count, exact.count) == (1, 2)


@pytest.mark.parametrize(("one", "other"), FAR)
def test_other_captions_are_admitted_beside_each_other(one: str, other: str) -> None:
    near = Taken(near=True)
    assert near.admit(one)
    assert near.admit(other)


def test_a_refused_text_refuses_nothing_but_itself() -> None:
    chain = ["a1 a2 a3 a4 a5 a6 a7 a8 a9 b", "a1 a2 a3 a4 a5 a6 a7 a8 a9 b c", "a1 a2 a3 a4 a5 a6 a7 a8 c b d e"]
    near = Taken(near=True)
    assert [near.admit(text) for text in chain] == [True, False, True]
    assert not near.admit(chain[1])


def test_texts_without_a_word_are_one_text() -> None:
    near = Taken(near=True)
    assert near.admit("!!!")
    assert not near.admit("…")
    assert near.admit("dog")
