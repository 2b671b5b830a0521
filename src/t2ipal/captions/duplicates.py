"""Texts that are there already, exactly or nearly: what an LLM or a corpus says twice is one caption."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from itertools import combinations

# Two texts are nearly the same if their sets of words have a Jaccard index of 4/5 or more (reconstruction): of ten
# words one may be added or missing, or one changed.
SHARED, ALL = 4, 5
TOGETHER = 2  # words by which sets are indexed; with more, fewer sets are compared and the index is larger

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

    The comparison is exact, not a sketch: what is refused depends on the texts and their order alone. The rarest words
    that two similar sets share stand near the front of both, as too few would be left to share behind it. So sets are
    indexed by the pairs of words in their fronts, and only those with a common pair are compared (prefix filter;
    Chaudhuri et al., ICDE 2006; Bayardo et al., WWW 2007; with more than one word: Wang et al., SIGMOD 2012). A word
    counts as the rarer the later it turned up, an order that stays the same as texts are added.
    """

    def __init__(self, near: bool = False) -> None:
        self.near = near
        self._texts: set[str] = set()
        self._ranks: dict[str, int] = {}
        self._index: dict[tuple[int, ...], list[frozenset[int]]] = {}
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
        together = min(TOGETHER, size)
        for other_size, needed in _similar_sizes(size):
            for front in combinations(rarest[: size - needed + together], together):
                for other in self._index.get((other_size, *front), ()):
                    if len(words & other) >= needed:
                        return False
        for front in combinations(rarest[: size - _ceil(SHARED * size, ALL) + together], together):
            self._index.setdefault((size, *front), []).append(words)
        return True


@cache
def _similar_sizes(size: int) -> tuple[tuple[int, int], ...]:
    """The sizes that similar sets of a set of ``size`` may have, and how many words they share with it at least.

    J = shared / (size + other - shared) >= SHARED / ALL, and sets share no more than all words of the smaller one.
    """
    return tuple(
        (other, _ceil(SHARED * (size + other), SHARED + ALL))
        for other in range(_ceil(SHARED * size, ALL), ALL * size // SHARED + 1)
    )


def _ceil(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)
