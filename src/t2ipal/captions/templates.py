"""Captions from sentence frames. The frames are other ones than those the embedded CLIP was trained on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from t2ipal.errors import UserError
from t2ipal.labels import LabelSet

FRAMES = (
    "Look closely: {list} {place}.",
    "Here is {list} {place}.",
    "A snapshot of {list} {place}.",
    "{List} caught on film {place}.",
    "{List} in full view {place}.",
    "You can spot {list} {place}.",
    "This shot has {list} {place}.",
    "Nothing but {list} {place}.",
    "In view: {list} {place}.",
    "The main subject is {list} {place}.",
    "A quiet moment with {list} {place}.",
    "We find {list} {place}.",
    "The frame contains {list} {place}.",
    "A close shot of {list} {place}.",
    "Notice {list} {place}.",
    "Featuring {list} {place}.",
    "An everyday sight: {list} {place}.",
    "What stands out is {list} {place}.",
    "A clear view of {list} {place}.",
    "Just {list} {place}.",
)
PLACES = (
    "on the beach", "in the sand", "in a room", "indoors", "at home", "on the grass", "in a field", "in the park",
    "at night", "in the dark", "in the snow", "in winter", "on the road", "in the street", "on the water", "by the sea",
    "in the sky", "under a clear sky",
)  # fmt: skip
ONE_CLASS = 0.4
SYNONYM = 1 / 3
PLACE = 1 / 2
ATTEMPTS = 2000

_SOUNDS_LIKE_CONSONANT = re.compile(r"uni([^nm]|$)|u[st][aeiou]|ubi|uku|ufo|eu|ew|one\b|once", re.IGNORECASE)
_SILENT_H = re.compile(r"hour|honest|honou?r|heir", re.IGNORECASE)
_SINGULAR_IN_S = ("ss", "us", "nis", "ris", "sis", "tis", "vis")
_LETTERS_SPOKEN_WITH_VOWEL = "AEFHILMNORSX"


@dataclass(frozen=True)
class Caption:
    """A text, the classes it was asked to name (the first one leads), and those that it names, in label-set order."""

    text: str
    requested: tuple[str, ...]
    labels: tuple[str, ...]


def article(phrase: str) -> str:
    """The indefinite article of a noun phrase, by the sound of its start; empty for a plural ("scissors")."""
    last, first = phrase.rpartition(" ")[2].lower(), re.split(r"[\s-]", phrase, maxsplit=1)[0]
    if last.endswith("s") and not last.endswith(_SINGULAR_IN_S):
        return ""
    if first.isupper() and 1 < len(first) <= 4:
        return "an" if first[0] in _LETTERS_SPOKEN_WITH_VOWEL else "a"
    vowel = first[:1].lower() in tuple("aeiou") and not _SOUNDS_LIKE_CONSONANT.match(first)
    return "an" if vowel or _SILENT_H.match(first) else "a"


def enumerate_words(words: Sequence[str]) -> str:
    """The words with their articles as an English list: ``a dog, a cat and an owl``."""
    mentions = [f"{article(word)} {word}".strip() for word in words]
    return mentions[0] if len(mentions) == 1 else f"{', '.join(mentions[:-1])} and {mentions[-1]}"


def fill(frame: str, words: Sequence[str], place: str) -> str:
    """The sentence that ``frame`` makes of the words; ``place`` may be empty."""
    listed = enumerate_words(words)
    text = frame.format(list=listed, List=listed[0].upper() + listed[1:], place=place)
    return re.sub(r" +\.$", ".", " ".join(text.split()))


def leading_classes(rng: np.random.Generator, classes: int, total: int) -> Iterator[int]:
    """``total`` class numbers in random order, each equally often but for one."""
    for start in range(0, total, classes):
        yield from (int(index) for index in rng.permutation(classes)[: total - start])


def _requested(rng: np.random.Generator, labels: LabelSet, first: int, max_classes: int) -> list[str]:
    """The first class and none to ``max_classes - 1`` companions, uniform among the others."""
    most = min(max_classes, len(labels.names))
    count = 1 if most == 1 or rng.random() < ONE_CLASS else int(rng.integers(2, most + 1))
    others = rng.choice(len(labels.names) - 1, size=count - 1, replace=False) if count > 1 else ()
    return [labels.names[i] for i in (first, *(int(other) + (int(other) >= first) for other in others))]


def _word(rng: np.random.Generator, labels: LabelSet, name: str) -> str:
    synonyms = labels.synonyms[name]
    if synonyms and rng.random() < SYNONYM:
        return synonyms[rng.integers(len(synonyms))]
    return labels.prompt_name(name)


def _draw(rng: np.random.Generator, labels: LabelSet, first: int, max_classes: int) -> Caption:
    requested = _requested(rng, labels, first, max_classes)
    words = [_word(rng, labels, name) for name in requested]
    place = PLACES[rng.integers(len(PLACES))] if rng.random() < PLACE else ""
    text = fill(FRAMES[rng.integers(len(FRAMES))], words, place)
    return Caption(text, tuple(requested), labels.labels(text))


def write(labels: LabelSet, total: int, max_classes: int, seed: int) -> list[Caption]:
    """``total`` distinct captions of one to ``max_classes`` classes; every class leads equally often, but for one.

    Of the captions 40 % name one class (all with ``max_classes`` = 1), the others two or more, equally often; a
    class that has synonyms goes by one in a third of its mentions; half of the captions name a place. What a caption
    is labelled with is mined from its text, and a text from which the leading class is not mined is redrawn.

    Raises:
        UserError: the frames and words do not give as many distinct captions of some class.
    """
    rng = np.random.default_rng(seed)
    captions: dict[str, Caption] = {}
    for first in leading_classes(rng, len(labels.names), total):
        for _ in range(ATTEMPTS):
            caption = _draw(rng, labels, first, max_classes)
            if caption.text not in captions and labels.names[first] in caption.labels:
                captions[caption.text] = caption
                break
        else:
            raise UserError(
                f"captions.total: {total} distinct captions cannot be made, found no new one for class "
                f"'{labels.names[first]}' after {len(captions)}; lower captions.total, raise captions.max_classes "
                f"or give the class more synonyms"
            )
    return list(captions.values())
