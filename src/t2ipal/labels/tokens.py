"""Texts as words that can be compared."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

Tokens = tuple[str, ...]

# Words, without the 's of a possessive; and punctuation that ends a phrase, so that "a bus, stop signs" names a bus.
TOKEN = re.compile(r"(?!(?<=\w['\u2019])s\b)[^\W_]+|[.,;:!?](?=\s|$)|[()\[\]|]", re.IGNORECASE)
# The same tokens of lower-case ASCII text in half the time.
_ASCII_TOKEN = re.compile(r"(?!(?<=\w')s\b)[a-z0-9]+|[.,;:!?](?=\s|$)|[()\[\]|]", re.ASCII)


def tokenise(text: str) -> list[str]:
    """The words of ``text``, NFKC and case-folded, and its punctuation marks that no phrase reaches over."""
    if text.isascii():
        return _ASCII_TOKEN.findall(text.lower())
    return [fold(token) for token in TOKEN.findall(text)]


def spans(text: str, words: Sequence[str]) -> list[tuple[int, int]]:
    """Where each of ``words``, the first ones that :func:`tokenise` finds, starts and ends; of words only, no marks."""
    if not text.isascii() or "'" in text:
        return [found.span() for found in TOKEN.finditer(text)]
    # Between one word and the next stands nothing that could be taken for it, but for the s of a possessive.
    lower, end, found = text.lower(), 0, []
    for word in words:
        start = lower.find(word, end)
        end = start + len(word)
        found.append((start, end))
    return found


def normalise(text: str) -> Tokens:
    """The words of ``text`` as they are compared: NFKC, case-folded, without punctuation and possessive 's."""
    return tuple(token for token in tokenise(text) if token[0].isalnum())


def fold(token: str) -> str:
    """``token`` without differences of case and Unicode form."""
    return token.lower() if token.isascii() else unicodedata.normalize("NFKC", token).casefold()
