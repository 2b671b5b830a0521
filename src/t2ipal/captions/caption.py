"""Captions, the slots that they fill, and what every source of them does."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from t2ipal.labels import LabelSet, Match


@dataclass(frozen=True)
class Caption:
    """A text, the classes that it was asked to name (the first one leads; none for a corpus), and what it mentions.

    ``mentions`` are the matches that labels stem from, in order of appearance; ``labels`` are in label-set order.
    """

    text: str
    source: str
    requested: tuple[str, ...]
    labels: tuple[str, ...]
    mentions: tuple[Match, ...] = ()

    @property
    def caption_id(self) -> str:
        """Sixteen hexadecimal digits of the SHA-256 of source and text."""
        return hashlib.sha256(f"{self.source}{self.text}".encode()).hexdigest()[:16]


def mined(labels: LabelSet, text: str, source: str, requested: Sequence[str] = ()) -> Caption:
    """The caption with the labels that are mined from its text, whatever was asked for."""
    mentions = labels.mine(text)
    found = {match.label for match in mentions}
    return Caption(text, source, tuple(requested), tuple(name for name in labels.names if name in found), mentions)


@dataclass(frozen=True)
class Slot:
    """A place in the sequence of captions. Its caption must mention ``lead``; None: any class will do."""

    number: int
    lead: str | None

    def leading(self, names: Sequence[str], rng: np.random.Generator) -> str:
        """``lead``, or any of the classes ``names``."""
        return self.lead or names[int(rng.integers(len(names)))]


class Register(Protocol):
    """The texts that captions already have."""

    def admit(self, text: str) -> bool:
        """Record ``text``; False if it, or nearly the same text, was there before."""


class Source(Protocol):
    """Where captions come from.

    A source is asked round by round. What it answers depends on its settings, its seed and the rounds before, but
    never on how many rounds will follow: so a higher ``captions.total`` only appends.
    """

    name: str

    def serve(self, slots: Sequence[Slot], taken: Register) -> list[Caption | None]:
        """One caption for each slot, which ``taken`` has admitted; None where the source has none."""

    def facts(self) -> dict[str, Any]:
        """What the manifest says about the source after the last round, as JSON."""
