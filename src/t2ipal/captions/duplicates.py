"""Texts that are there already, exactly or nearly: what an LLM or a corpus says twice is one caption."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

# Two texts are nearly the same if their sets of words have a Jaccard index of 4/5 or more (reconstruction): of ten
# words one may be added or missing, or one changed.
SHARED, ALL = 4, 5

_WORD = re.compile(r"[^\W_]+")
_ARTICLES = frozenset(("a", "an", "the"))


def normalised(text: str) -> str:
    """The words of ``text``, lower case, without articles and punctuation: equal for two texts that are the same."""
    folded = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    return " ".join([word for word in _WORD.findall(folded) if word not in _ARTICLES])


class Taken:
    """The register of the texts that captions have, for `t2ipal.captions.caption.Register`.

    A text that equals an earlier one after `normalised` is refused; with ``near`` also one whose set of words is
    nearly that of an earlier one. Captions from the same sentence frame differ by class names only, so ``near`` is not
    for them.

    The comparison is exact, not a sketch: what is refused depends on the texts and their order alone. Two similar sets
    share one of their rarest words, near the front of both, so that only sets indexed there are compared (prefix and
    positional filter; Bayardo et al., WWW 2007; Xiao et al., "Efficient similarity joins for near-duplicate detection",
    TODS 2011). A word is the rarer the later it turned up, an order that stays the same as texts are added.
    """

    def __init__(self, near: bool = False) -> None:
        self.near = near
        self._texts: set[str] = set()
        self._ranks: dict[str, int] = {}
        self._index: dict[tuple[int, int, int], list[frozenset[int]]] = {}
        self._count = 0

    @property
    def count(self) -> int:
        """How many texts were admitted."""
        return self._count

    def admit(self, text: str) -> bool:
        """Record ``text``; False if it, or with ``near`` nearly the same text, was there before."""
        key = normalised(text)
        if key in self._texts:
            return False
        self._texts.add(key)
        if self.near and key and not self._differs(key):
            return False
        self._count += 1
        return True

    def _differs(self, key: str) -> bool:
        """Whether no indexed set of words is nearly that of ``key``, which is then indexed too."""
        words = frozenset([self._ranks.setdefault(word, len(self._ranks)) for word in key.split()])
        rarest, size = sorted(words, reverse=True), len(words)
        for here, other_size, there in _meetings(size):
            for other in self._index.get((rarest[here], other_size, there), ()):
                if len(words & other) >= _needed(size, other_size):
                    return False
        for there in range(size - _ceil(SHARED * size, ALL) + 1):
            self._index.setdefault((rarest[there], size, there), []).append(words)
        return True


@cache
def _meetings(size: int) -> tuple[tuple[int, int, int], ...]:
    """Where the rarest shared word may stand: its position in a set of ``size``, the size of the other, its position.

    Behind it both sets must still hold the rest of the words that they need to share.
    """
    return tuple(
        (here, other, there)
        for other in range(_ceil(SHARED * size, ALL), ALL * size // SHARED + 1)
        for here in range(size - _needed(size, other) + 1)
        for there in range(other - _needed(size, other) + 1)
    )


def _needed(size: int, other: int) -> int:
    """How many words sets of these sizes must share: J = shared / (size + other - shared) >= SHARED / ALL."""
    return _ceil(SHARED * (size + other), SHARED + ALL)


def _ceil(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)
