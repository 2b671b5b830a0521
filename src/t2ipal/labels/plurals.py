"""Plurals of English nouns, and singulars of class names that are plural.

The library ``inflect`` knows more irregular nouns than our table, but its import takes 1.8 s of CPU time, six times
what loading a label set may take at the start of every stage. So our rules answer where they cannot be wrong, the
table answers for the usual exceptions, and inflect is imported for the rest alone: endings where only a dictionary
helps (gazebo, reef, bacillus, appendix). No shipped label set needs it, nor does one that states the plurals of such
words. Its singulars are not used: it makes "bu" of "bus".
"""

from __future__ import annotations

import re
from functools import cache

from t2ipal.labels.english import (
    COMPOUND_ENDS,
    IRREGULAR,
    PLURAL_IN_US,
    PLURAL_ONLY,
    SAME_PLURAL,
    SEVERAL_PLURALS,
    SINGULAR_IN_E,
    SINGULAR_IN_S,
)

# Endings of which only a dictionary knows the plural; of "-oo", "-ff", "-oof" and "-ief" the rules are sure.
_ASK_INFLECT = re.compile(r"([^o]o|(?<![fo])(?<!ie)f|fe|us|um|[ei]x|eau|sis|nese|guese)$")
_EITHER_WAY = re.compile(r"(o|f|fe|us|um|[ei]x|eau)$")
_COMPOUND_END = re.compile(rf".+?({'|'.join(COMPOUND_ENDS)})")
_GENITIVE = re.compile(r"(.+?)( (?:of|in)\b.*)")
_NO_NOUN = re.compile(r" (to|under|into|down|with|for|at|his|her|their)$")

_SINGULARS = {form: word for word, form in IRREGULAR.items() if word != form} | {
    form: word for word, forms in SEVERAL_PLURALS.items() for form in forms if word != form
}


def plurals(phrase: str) -> tuple[str, ...]:
    """The plurals of a singular noun phrase ("men of war"), the usual one first; none where it is plural already."""
    genitive = _GENITIVE.fullmatch(phrase)
    if genitive:
        return tuple(f"{head}{genitive[2]}" for head in plurals(genitive[1]))
    if is_plural(phrase) or _NO_NOUN.search(phrase):
        return ()
    head, separator, last = phrase.rpartition(" ")
    forms = _known(last)
    return _asked(phrase) if forms is None else tuple(f"{head}{separator}{form}" for form in forms)


def plural(phrase: str) -> str:
    """The usual plural of a singular noun phrase; the phrase itself where it is plural already."""
    forms = plurals(phrase)
    return forms[0] if forms else phrase


def is_plural(phrase: str) -> bool:
    """Whether a noun phrase is plural by its last word. A noun that has one form for both is not."""
    last = phrase.rpartition(" ")[2].lower()
    return last in PLURAL_ONLY or _singular_word(last) is not None


def singular(phrase: str) -> str | None:
    """The singular of a noun phrase; None where it is singular already, or has no singular of the same meaning."""
    head, separator, last = phrase.rpartition(" ")
    form = _singular_word(last.lower())
    return None if form is None else f"{head}{separator}{form}"


def _known(word: str) -> tuple[str, ...] | None:
    """The plurals of one word as far as rules and tables are sure; None where inflect is to be asked."""
    lower = word.lower()
    if lower in SAME_PLURAL:
        return (word,)
    if lower in SEVERAL_PLURALS:
        return SEVERAL_PLURALS[lower]
    if lower in IRREGULAR:
        return (IRREGULAR[lower],)
    compound = _COMPOUND_END.fullmatch(lower)
    if compound is not None:
        forms = _known(compound[1])
        return forms and tuple(f"{word[: compound.start(1)]}{form}" for form in forms)
    if lower.endswith("man"):
        return (f"{word[:-2]}en",)
    return None if _ASK_INFLECT.search(lower) else (_regular(word),)


def _regular(word: str) -> str:
    lower = word.lower()
    if lower.endswith(("s", "x", "z", "ch", "sh")):
        return f"{word}es"
    if lower.endswith("y") and lower[-2:-1] not in ("", *"aeiou"):
        return f"{word[:-1]}ies"
    return f"{word}s"


def _singular_word(lower: str) -> str | None:
    if lower in _SINGULARS:
        return _SINGULARS[lower]
    if lower.endswith("men") and len(lower) > 3:
        return f"{lower[:-2]}an"
    if not lower.endswith("s") or len(lower) < 4 or lower.endswith(("ss", "is")):
        return None
    if lower in PLURAL_ONLY or lower in SINGULAR_IN_S or lower in SAME_PLURAL:
        return None
    if lower.endswith("us"):
        return lower[:-1] if lower in PLURAL_IN_US else None
    if lower[:-1] in SINGULAR_IN_E:
        return lower[:-1]
    if lower.endswith("ies") and len(lower) > 4:
        return f"{lower[:-3]}y"
    return lower[:-2] if lower.endswith(("ches", "shes", "sses", "xes", "zzes")) else lower[:-1]


@cache
def _asked(phrase: str) -> tuple[str, ...]:
    """What inflect answers, and the simple plural beside it where both are in use (cargoes, cargos)."""
    import inflect

    engine = inflect.engine()
    usual = engine.plural_noun(phrase)
    engine.classical(all=True)
    simple = [_regular(phrase)] if _EITHER_WAY.search(phrase.lower()) else []
    return tuple(dict.fromkeys(str(form) for form in (usual, engine.plural_noun(phrase), *simple) if form))
