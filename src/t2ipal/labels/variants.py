"""Other ways to write the same phrase: British and American spelling, compounds as one word or as two.

Hyphens need no variant, since they separate words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from t2ipal.labels.english import ADJECTIVES, COMPOUND_HEADS, FUNCTION_WORDS, SPELLINGS

_SPELLING = {one: other for pair in SPELLINGS for one, other in (pair, pair[::-1])}
_COMPOUND = re.compile(rf"([a-z]{{3,}})({'|'.join(COMPOUND_HEADS.split())})")


def spellings(phrase: str) -> Iterator[tuple[str, str]]:
    """Other spellings of a singular ``phrase``, and the two words that it is made of, each with how it was derived."""
    words = phrase.split()
    for index, word in enumerate(words):
        other = _SPELLING.get(word)
        if other is not None:
            yield " ".join([*words[:index], other, *words[index + 1 :]]), "other spelling"
    if len(words) == 1:
        parts = _COMPOUND.fullmatch(phrase.lower())
        if parts is not None and parts[1] not in ADJECTIVES:
            yield f"{phrase[: parts.end(1)]} {phrase[parts.end(1) :]}", "two words"


def joined(phrase: str) -> str | None:
    """Two words as one; None for any other number, and for what is no compound."""
    words = phrase.split()
    return "".join(words) if len(words) == 2 and all(_joinable(word) for word in words) else None


def _joinable(word: str) -> bool:
    return word.isalpha() and len(word) > 1 and word.lower() not in FUNCTION_WORDS
