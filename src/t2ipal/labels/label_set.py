"""Label sets: classes in their official order, the words for them, and which classes a text mentions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from t2ipal.labels import phrases
from t2ipal.labels.files import LabelFile, read
from t2ipal.labels.miner import Match, Miner
from t2ipal.labels.phrases import Entry


@dataclass(frozen=True)
class LabelSet:
    """Classes in their official order and the words for them; :mod:`t2ipal.labels.files` explains the words."""

    file: LabelFile = field(repr=False, hash=False)
    origin: str = "label set"

    @classmethod
    def load(cls, name_or_path: str | Path) -> LabelSet:
        """A shipped label set by its name, or one from a YAML file by its path.

        Raises:
            UserError: there is no such label set, or the file does not fit: not YAML, an unknown key, no class,
                or one phrase for two classes (or for a class and an exclusion); names the file and both places.
        """
        labels = cls(read(str(name_or_path)), str(name_or_path))
        _ = labels._miner  # clashes are told here, not at the first caption
        return labels

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The classes."""
        return tuple(self.file.classes)

    @cached_property
    def synonyms(self) -> Mapping[str, tuple[str, ...]]:
        """By class, the words that captions may use in its place."""
        return {name: tuple(words.synonyms) for name, words in self.file.classes.items()}

    @cached_property
    def kinds(self) -> Mapping[str, tuple[str, ...]]:
        """By class, narrower words."""
        return {name: tuple(words.kinds) for name, words in self.file.classes.items()}

    @cached_property
    def exclusions(self) -> Mapping[str, tuple[str, ...]]:
        """By class, phrases that mean something else."""
        return {name: tuple(words.exclusions) for name, words in self.file.classes.items()}

    def prompt_name(self, name: str) -> str:
        """How a prompt says class ``name``: "dining table" for ``diningtable``."""
        return self.file.classes[name].prompt or name.replace("_", " ")

    def display_name(self, name: str) -> str:
        """How tables and figures say class ``name``."""
        return self.file.classes[name].display or self.prompt_name(name)

    def implied(self, name: str) -> tuple[str, ...]:
        """The classes that every picture of class ``name`` shows, those that they imply included."""
        reached: dict[str, None] = {}
        pending = list(self.file.classes[name].implies)
        while pending:
            other = pending.pop(0)
            if other not in reached and other != name:
                reached[other] = None
                pending += self.file.classes[other].implies
        return tuple(reached)

    def nouns_only(self, name: str) -> bool:
        """Whether the words of class ``name`` are nouns ("dancing", "snowy" are not)."""
        return self.file.classes[name].nouns_only

    def mine(self, text: str) -> tuple[Match, ...]:
        """Every mention of a class in ``text``, in order of appearance; a class that is implied follows the other.

        At each word the longest known phrase wins, so that compounds go before their parts; an exclusion
        uses up its words without a mention. Case, possessives, hyphens and Unicode forms do not matter.
        """
        meant = self._meant
        return tuple(
            Match(label, start, end, text[start:end])
            for start, end, entry in self._miner.places(text)
            for label in meant[entry.labels]
        )

    def labels(self, text: str) -> tuple[str, ...]:
        """The classes that ``text`` mentions, each once, in the order of the label set."""
        found = {label for labels in self._miner.labels(text) for label in self._meant[labels]}
        return tuple(name for name in self.names if name in found) if found else ()

    def places(self, text: str) -> list[tuple[int, int, Entry]]:
        """Start, end and origin of every phrase of the label set in ``text``, exclusions too."""
        return self._miner.places(text)

    def entries(self) -> tuple[Entry, ...]:
        """Every phrase that is searched for, stated ones first."""
        return self._miner.entries

    @cached_property
    def _miner(self) -> Miner:
        stated = tuple(phrases.stated(self.file, self.origin))
        derived = (found for entry in stated for found in phrases.derived(entry, self.file.classes[entry.owner]))
        return Miner(stated, derived, phrases.word_lists(self.file), self.origin)

    @cached_property
    def _meant(self) -> dict[tuple[str, ...], tuple[str, ...]]:
        """The classes of an entry, and those that they imply."""
        return {
            labels: tuple(dict.fromkeys([*labels, *(other for label in labels for other in self.implied(label))]))
            for labels in {entry.labels for entry in self.entries()}
        }
