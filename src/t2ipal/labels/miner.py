"""Finding the phrases of a label set in texts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from t2ipal.errors import UserError
from t2ipal.labels.phrases import WILDCARD, Entry, Pattern
from t2ipal.labels.tokens import Tokens, spans, tokenise


class Match(NamedTuple):
    """A mention of a class: ``phrase`` is ``text[start:end]`` as written."""

    label: str
    start: int
    end: int
    phrase: str


class _Shape(NamedTuple):
    """Patterns of equal build that start with the same word.

    They have ``before`` words before it, their own words and what follows end ``stop`` words after its start, and
    ``size`` of them are their own. Where ``places`` says so there stands any word, or one of a list. ``entries`` has
    the patterns by all their words.
    """

    before: int
    stop: int
    size: int
    places: tuple[tuple[int, str], ...]
    entries: dict[Tokens, Entry]


class Miner:
    """A table of phrases, and the search in it: at each word the longest phrase wins.

    The words of a context are not used up. Of equally long phrases the one with the longer context wins, then the one
    with fewer places for any word or a word of a list.
    """

    def __init__(
        self, stated: Iterable[Entry], derived: Iterable[Entry], lists: Mapping[str, frozenset[str]], origin: str
    ) -> None:
        """What is stated goes before what is derived: a class "glasses" keeps its name beside a class "glass".

        Raises:
            UserError: a phrase means two things; names both places.
        """
        table = _table(stated, {}, origin)
        table |= _table(derived, table, origin)
        self.entries = tuple(table.values())
        self._lists = lists

    @cached_property
    def _shapes(self) -> dict[str, tuple[_Shape, ...]]:
        # Built at the first caption: most stages load a label set for its names alone.
        return _by_first_word(self.entries)

    def labels(self, text: str) -> set[tuple[str, ...]]:
        """The classes of each phrase in ``text``; none of an exclusion."""
        return {entry.labels for _, _, entry in self._search(tokenise(text))}

    def places(self, text: str) -> list[tuple[int, int, Entry]]:
        """Start, end and entry of every phrase in ``text``, exclusions too, in order of appearance."""
        words = tokenise(text)
        found = self._search(words)
        if not found:
            return found
        where = spans(text, words[: found[-1][1] + 1])
        return [(where[first][0], where[last][1], entry) for first, last, entry in found]

    def _search(self, words: Sequence[str]) -> list[tuple[int, int, Entry]]:
        """First and last word of each phrase, and its entry."""
        shapes_of, found, free = self._shapes, [], 0
        for index, word in enumerate(words):
            if word not in shapes_of or index < free:
                continue
            for before, stop, size, places, entries in shapes_of[word]:
                start = index - before
                if start < 0:
                    continue
                key = tuple(words[start : index + stop])
                entry = entries.get(self._generalised(key, places) if places else key)
                if entry is not None:
                    free = index + size
                    found.append((index, free - 1, entry))
                    break
        return found

    def _generalised(self, key: Tokens, places: tuple[tuple[int, str], ...]) -> Tokens:
        """The words with ``*`` and names of lists in their places; none if a word does not fit there."""
        words = list(key)
        for place, symbol in places:
            if place >= len(words):
                return ()
            fits = words[place][0].isalnum() if symbol == WILDCARD else words[place] in self._lists[symbol]
            if not fits:
                return ()
            words[place] = symbol
        return tuple(words)


def _by_first_word(entries: Iterable[Entry]) -> dict[str, tuple[_Shape, ...]]:
    found: dict[str, dict[tuple[Any, ...], _Shape]] = defaultdict(dict)
    for entry in entries:
        before, words, after = entry.pattern
        key = before + words + after
        places: tuple[tuple[int, str], ...] = ()
        if before or after:
            places = tuple((place, word) for place, word in enumerate(key) if word == WILDCARD or word[0] == "<")
        shape = _Shape(len(before), len(words) + len(after), len(words), places, {})
        found[words[0]].setdefault(shape[:4], shape).entries[key] = entry
    return {word: tuple(sorted(shapes.values(), key=_precedence)) for word, shapes in found.items()}


def _precedence(shape: _Shape) -> tuple[Any, ...]:
    wildcards = sum(symbol == WILDCARD for _, symbol in shape.places)
    return -shape.size, -shape.before - shape.stop, wildcards, len(shape.places), shape.before, shape.places


def _table(entries: Iterable[Entry], before: dict[Pattern, Entry], origin: str) -> dict[Pattern, Entry]:
    """Entries by pattern, without those that are in ``before``."""
    table: dict[Pattern, Entry] = {}
    for entry in entries:
        if entry.pattern in before or not entry.pattern.words:
            continue
        first = table.setdefault(entry.pattern, entry)
        if first.labels != entry.labels:
            raise UserError(
                f"label set {origin}: '{entry.phrase}' stands in {_place(first)} and in {_place(entry)}; "
                f"keep it in one of them"
            )
    return table


def _place(entry: Entry) -> str:
    return f"{entry.place} ({entry.derivation})" if entry.derivation else entry.place
