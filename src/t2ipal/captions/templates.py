"""Captions from sentence frames. The frames are other ones than those the embedded CLIP was trained on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from t2ipal.captions.caption import Caption, Register, Slot, mined
from t2ipal.captions.companions import Companions
from t2ipal.captions.duplicates import Taken
from t2ipal.captions.mixture import Balance, compose
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
ADJECTIVES = (
    "small", "large", "little", "big", "old", "new", "red", "blue", "green", "yellow", "white", "black", "brown",
    "bright", "dark", "quiet", "pretty", "plain",
)  # fmt: skip
SYNONYM = 1 / 3
PLACE = 1 / 2
ADJECTIVE = 1 / 3
ATTEMPTS = 2000

_SOUNDS_LIKE_CONSONANT = re.compile(r"uni([^nm]|$)|u[st][aeiou]|ubi|uku|ufo|eu|ew|one\b|once", re.IGNORECASE)
_SILENT_H = re.compile(r"hour|honest|honou?r|heir", re.IGNORECASE)
_SINGULAR_IN_S = ("ss", "us", "nis", "ris", "sis", "tis", "vis")
_LETTERS_SPOKEN_WITH_VOWEL = "AEFHILMNORSX"


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


class TemplateSource:
    """Captions from ``FRAMES``: one class or several, a place in half of them, on demand an adjective.

    A class that has synonyms goes by one in a third of its mentions. What a caption is labelled with is mined from
    its text, and a text from which the leading class is not mined is redrawn.
    """

    name = "template"

    def __init__(self, labels: LabelSet, companions: Companions, rng: np.random.Generator, attributes: bool) -> None:
        self.labels, self.companions, self.rng, self.attributes = labels, companions, rng, attributes
        self.redrawn = 0

    def serve(self, slots: Sequence[Slot], taken: Register) -> list[Caption | None]:
        """One caption for each slot; None where no new text was found in 2,000 draws."""
        return [self._new(slot, taken) for slot in slots]

    def facts(self) -> dict[str, Any]:
        """How many texts were drawn in vain: taken, or lacking their leading class."""
        return {"redrawn": self.redrawn}

    def _new(self, slot: Slot, taken: Register) -> Caption | None:
        lead = slot.leading(self.labels.names, self.rng)
        for _ in range(ATTEMPTS):
            caption = self._draw(lead)
            if lead in caption.labels and taken.admit(caption.text):
                return caption
            self.redrawn += 1
        return None

    def _draw(self, lead: str) -> Caption:
        requested = self.companions.draw(self.rng, lead)
        words = [self._word(name) for name in requested]
        place = PLACES[self.rng.integers(len(PLACES))] if self.rng.random() < PLACE else ""
        text = fill(FRAMES[self.rng.integers(len(FRAMES))], words, place)
        return mined(self.labels, text, self.name, requested)

    def _word(self, name: str) -> str:
        synonyms, word = self.labels.synonyms[name], self.labels.prompt_name(name)
        if synonyms and self.rng.random() < SYNONYM:
            word = synonyms[self.rng.integers(len(synonyms))]
        if self.attributes and self.rng.random() < ADJECTIVE:
            word = f"{ADJECTIVES[self.rng.integers(len(ADJECTIVES))]} {word}"
        return word


class PromptSource:
    """The 80 ImageNet prompt templates of CLIP (Radford et al. 2021), one class each: 80 captions for every word."""

    name = "prompts"

    def __init__(self, labels: LabelSet, seed: int) -> None:
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        self.labels = labels
        rng = np.random.default_rng([seed, 80])
        self._left = {
            name: [
                mined(labels, template(word), self.name, (name,))
                for word in self._shuffled(rng, (labels.prompt_name(name), *labels.synonyms[name]))
                for template in self._shuffled(rng, OPENAI_IMAGENET_TEMPLATES)
            ]
            for name in labels.names
        }
        self._rng = rng

    @staticmethod
    def _shuffled(rng: np.random.Generator, items: Sequence[Any]) -> list[Any]:
        return [items[int(index)] for index in rng.permutation(len(items))]

    def serve(self, slots: Sequence[Slot], taken: Register) -> list[Caption | None]:
        """The next template of each slot's class; None when all are used up."""
        return [self._next(slot, taken) for slot in slots]

    def facts(self) -> dict[str, Any]:
        """How many captions are left over all classes."""
        return {"left": sum(len(captions) for captions in self._left.values())}

    def _next(self, slot: Slot, taken: Register) -> Caption | None:
        lead = slot.leading(self.labels.names, self._rng)
        left = self._left[lead]
        while left:
            caption = left.pop(0)
            if lead in caption.labels and taken.admit(caption.text):
                return caption
        return None


def write(labels: LabelSet, total: int, max_classes: int, seed: int) -> list[Caption]:
    """``total`` distinct captions from templates alone, as the stage makes them by default.

    Raises:
        UserError: the frames and words do not give as many distinct captions of some class.
    """
    rng = np.random.default_rng(seed)
    source = TemplateSource(labels, Companions(labels, max_classes), rng, attributes=False)
    balance, register = Balance(total, {source.name: 1.0}), Taken(near=False)
    return compose(labels, balance, {source.name: source}, {source.name: register}, rng).captions
