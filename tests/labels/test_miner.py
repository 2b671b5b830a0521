from __future__ import annotations

from pathlib import Path

import pytest

from t2ipal.errors import UserError
from t2ipal.labels import LabelSet, shipped
from t2ipal.labels.phrases import Entry, word_lists
from t2ipal.labels.tokens import tokenise


def _load(tmp_path: Path, text: str) -> LabelSet:
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return LabelSet.load(path)


def _obvious(labels: LabelSet, text: str) -> list[tuple[str, Entry]]:
    """At each word every phrase of the label set is tried, and the best one taken."""
    lists, words, found, index = word_lists(labels.file), tokenise(text), [], 0

    def fits(symbol: str, position: int) -> bool:
        if not 0 <= position < len(words):
            return False
        if symbol == "*":
            return words[position].isalnum()
        return words[position] in lists[symbol] if symbol.startswith("<") else words[position] == symbol

    def rank(entry: Entry) -> tuple[int, ...]:
        before, own, after = entry.pattern
        symbols = [symbol for symbol in before + after if symbol == "*" or symbol.startswith("<")]
        return len(own), len(before) + len(after), -symbols.count("*"), -len(symbols), -len(before)

    while index < len(words):
        fitting = []
        for entry in labels.entries():
            before, own, after = entry.pattern
            if all(fits(symbol, index - len(before) + i) for i, symbol in enumerate(before + own + after)):
                fitting.append(entry)
        if fitting:
            best = max(fitting, key=rank)
            found.append((" ".join(words[index : index + len(best.pattern.words)]), best))
        index += len(fitting and best.pattern.words) or 1
    return found


TEXTS = [
    "The orange cat, an orange and a remote control car; a man ties his tie next to train tracks.",
    "An orange and white dog with a remote in a remote area bats at a bat, no people.",
    "He throws a baseball at the baseball field while a couple of ducks eat fried chicken and rice",
    "A statue of a horse beside a toy train on a stone wall at night, rocks and roses rose",
    "A policeman waves at surfers on waves crashing, green leaves; the bus leaves the station.",
]


@pytest.mark.parametrize("name", shipped())
@pytest.mark.parametrize("text", TEXTS)
def test_mining_agrees_with_trying_every_phrase_at_every_word(name: str, text: str) -> None:
    labels = LabelSet.load(name)
    found = [(" ".join(tokenise(text[start:end])), entry) for start, end, entry in labels.places(text)]
    assert found == _obvious(labels, text)


def test_a_context_must_stand_beside_the_phrase_and_is_not_used_up(tmp_path: Path) -> None:
    labels = _load(tmp_path, "classes: {orange: {exclusions: [orange (shirt), (in) orange]}, shirt: {}}")
    assert labels.labels("an orange shirt") == ("shirt",)
    assert labels.labels("a girl in orange") == ()
    assert labels.labels("an orange, shirts") == ("orange", "shirt")


def test_a_wildcard_stands_for_any_word_but_for_no_punctuation(tmp_path: Path) -> None:
    labels = _load(tmp_path, "classes: {remote: {exclusions: [remote (*)], kinds: [remote (on)]}}")
    assert labels.labels("a remote area") == ()
    assert labels.labels("a remote on a shelf") == ("remote",)
    assert labels.labels("a remote, a shelf") == ("remote",)
    assert labels.labels("a remote") == ("remote",)


def test_lists_are_spelt_out_in_phrases_and_looked_up_in_contexts(tmp_path: Path) -> None:
    text = """
lists: {toy: [toy, stuffed], colour: [red, dark red]}
classes: {dog: {exclusions: [<toy> dog, "(<colour>) dog (<toy>)"]}}
"""
    labels = _load(tmp_path, text)
    for excluded in ("stuffed dogs", "a toy dog", "a red dog toy", "a dark red dog toy"):
        assert labels.labels(excluded) == (), excluded
    assert labels.labels("a dog toy, a red dog") == ("dog",)
    assert [e.phrase for e in labels.entries() if "<" in e.phrase] == ["(red) dog (<toy>)", "(dark red) dog (<toy>)"]


def test_longer_phrases_win_before_longer_contexts(tmp_path: Path) -> None:
    labels = _load(tmp_path, 'classes: {ball: {exclusions: ["(the) ball (*)"]}, glove: {kinds: [ball glove]}}')
    assert labels.labels("the ball glove") == ("glove",)
    assert labels.labels("the ball game") == ()


def test_a_class_implies_others_and_theirs(tmp_path: Path) -> None:
    labels = _load(tmp_path, "classes: {animal: {}, dog: {implies: [pet]}, pet: {implies: [animal]}}")
    assert labels.labels("a dog") == ("animal", "dog", "pet")
    assert [(match.label, match.start, match.end) for match in labels.mine("a dog")] == [
        ("dog", 2, 5),
        ("pet", 2, 5),
        ("animal", 2, 5),
    ]
    assert labels.implied("dog") == ("pet", "animal")


def test_classes_that_imply_each_other_are_no_endless_loop(tmp_path: Path) -> None:
    labels = _load(tmp_path, "classes: {sofa: {implies: [couch]}, couch: {implies: [sofa]}}")
    assert labels.labels("a sofa") == ("sofa", "couch")


def test_a_phrase_may_mention_several_classes(tmp_path: Path) -> None:
    labels = _load(tmp_path, "classes: [police, dog]\nshared: {police dog: [police, dog]}")
    assert [(match.label, match.phrase) for match in labels.mine("two police dogs")] == [
        ("police", "police dogs"),
        ("dog", "police dogs"),
    ]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("classes: {cat: {kinds: ['(big']}}", ["'(big'", "classes.cat.kinds", "parentheses"]),
        ("classes: {cat: {kinds: ['big * cat']}}", ["'big * cat'", "classes.cat.kinds", "only in there"]),
        ("classes: {cat: {kinds: ['(big)']}}", ["'(big)'", "classes.cat.kinds"]),
        ("classes: {cat: {kinds: ['<colour> cat']}}", ["there is no list 'colour'"]),
        ("classes: {cat: {implies: [pet]}}", ["classes.cat.implies", "'pet'"]),
        ("classes: {cat: {implies: [cat]}}", ["classes.cat.implies", "'cat'"]),
        ("classes: {cat: {variants: {kat: [catt]}}}", ["classes.cat.variants", "'kat'"]),
        ("classes: [cat, dog]\nshared: {pet: [cat]}", ["shared.pet", "two or more"]),
        ("classes: [cat, dog]\nshared: {pet: [cat, cow]}", ["shared.pet", "cow"]),
        ("classes: {cat: {kinds: [pet]}, dog: {}}\nshared: {pet: [cat, dog]}", ["classes.cat.kinds", "shared"]),
        ("lists: {a: [1]}\nclasses: [cat]", ["lists.a.0"]),
    ],
)
def test_phrases_that_do_not_fit_are_refused_with_their_place(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        _load(tmp_path, text)
    assert all(part in str(caught.value) for part in ["own.yaml", *parts]), str(caught.value)


def test_too_many_phrases_by_lists_are_refused(tmp_path: Path) -> None:
    many = [f"w{number}" for number in range(100)]
    with pytest.raises(UserError, match="stands for 1000000 phrases"):
        _load(tmp_path, f"lists: {{many: {many}}}\nclasses: {{cat: {{kinds: [<many> <many> <many> cat]}}}}")


def test_derived_words_can_be_overridden(tmp_path: Path) -> None:
    labels = _load(
        tmp_path,
        "classes: {grey wolf: {variants: {grey wolf: [timber wolf]}, plurals: {wolf: [wulfs]}},"
        " glasses: {}, scarves: {plurals: {scarves: []}}}",
    )
    phrases = {entry.phrase for entry in labels.entries()}
    assert phrases == {"grey wolf", "grey wulfs", "timber wolf", "timber wulfs", "glasses", "scarves"}
