"""The phrases of a label set: those that its file states, and those that are derived from them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from math import prod
from typing import NamedTuple

from t2ipal.errors import UserError
from t2ipal.labels import plurals, variants
from t2ipal.labels.files import LabelFile, Words
from t2ipal.labels.tokens import TOKEN, Tokens, fold, normalise

WILDCARD = "*"
MOST_PHRASES = 5000

_SIGN = re.compile(r"[()*<]")
_PATTERN = re.compile(r"(?:\(([^()]+)\) *)?([^()*]+?)(?: *\(([^()]+)\))?")
_LIST = re.compile(r"<([^<>]+)>")
_CONTEXT = re.compile(rf"\*|<[^<>]+>|{TOKEN.pattern}", re.IGNORECASE)


class Pattern(NamedTuple):
    """Words to match, and words that must stand right before and after and are not used up.

    In a context ``*`` is any word, and ``<name>`` one of the list of that name.
    """

    before: Tokens
    words: Tokens
    after: Tokens


class Entry(NamedTuple):
    """A phrase, its pattern, and where it comes from.

    ``owner`` is the class under which the phrase stands (the first that shares it), ``labels`` are the classes that it
    means (none: an exclusion), ``place`` is the key of the file, and ``derivation`` how it was derived from a stated
    phrase (empty: it is stated).
    """

    phrase: str
    pattern: Pattern
    owner: str
    labels: tuple[str, ...]
    place: str
    derivation: str = ""


def stated(file: LabelFile, origin: str) -> Iterator[Entry]:
    """All phrases that the file states.

    Raises:
        UserError: a phrase holds no word, a list that there is not, or a context where none can be.
    """
    lists = word_lists(file)

    def patterns(phrases: Iterable[str], owner: str, labels: tuple[str, ...], place: str) -> Iterator[Entry]:
        for phrase in phrases:
            for spelt in _spell_out(phrase, file, lists, place, origin):
                yield Entry(spelt, _parse(spelt, place, origin), owner, labels, place)

    for name, words in file.classes.items():
        place = f"classes.{name}"
        yield _plain(name, name, place, origin)
        if words.prompt is not None:
            yield _plain(words.prompt, name, f"{place}.prompt", origin)
        elif "_" in name:
            yield _plain(name.replace("_", " "), name, place, origin)
        for phrase in words.synonyms:
            yield _plain(phrase, name, f"{place}.synonyms", origin)
        yield from patterns(words.kinds, name, (name,), f"{place}.kinds")
        yield from patterns(words.exclusions, name, (), f"{place}.exclusions")
    for phrase, names in file.shared.items():
        yield from patterns([phrase], names[0], tuple(names), "shared")


def derived(entry: Entry, words: Words) -> Iterator[Entry]:
    """The variants and plurals of a stated phrase; of a class name that is plural, its singular as well.

    Of a phrase with a context nothing is derived: "orange (shirt)" says nothing of oranges.
    """
    if entry.pattern.before or entry.pattern.after:
        return
    forms = [entry]
    single = plurals.singular(entry.phrase) if entry.place == f"classes.{entry.owner}" else None
    if single is not None and entry.phrase not in words.plurals:
        forms.append(_derive(entry, single, "singular"))
    forms += [found for form in forms for found in _variants(form, words)]
    forms += [_derive(form, phrase, "plural") for form in forms for phrase in _plurals(form.phrase, words)]
    yield from forms[1:]
    if entry.labels and entry.phrase not in words.variants:
        # An exclusion needs no joined form: one word has no part that could be taken for a class.
        joined = ((form, variants.joined(form.phrase)) for form in forms)
        yield from (_derive(form, phrase, "one word") for form, phrase in joined if phrase is not None)


def _plurals(phrase: str, words: Words) -> tuple[str, ...]:
    head, separator, last = phrase.rpartition(" ")
    if phrase in words.plurals:
        return tuple(words.plurals[phrase])
    if last in words.plurals:
        return tuple(f"{head}{separator}{form}" for form in words.plurals[last])
    return plurals.plurals(phrase)


def _variants(entry: Entry, words: Words) -> list[Entry]:
    if entry.phrase in words.variants:
        return [_derive(entry, phrase, "variant") for phrase in words.variants[entry.phrase]]
    return [_derive(entry, phrase, how) for phrase, how in variants.spellings(entry.phrase)]


def _derive(entry: Entry, phrase: str, how: str) -> Entry:
    pattern = Pattern((), normalise(phrase), ())
    return entry._replace(phrase=phrase, pattern=pattern, derivation=f"{how} of '{entry.phrase}'")


def _plain(phrase: str, owner: str, place: str, origin: str) -> Entry:
    return Entry(phrase, Pattern((), _words(phrase, phrase, place, origin), ()), owner, (owner,), place)


def _words(text: str, phrase: str, place: str, origin: str) -> Tokens:
    words = normalise(text)
    if not words:
        raise UserError(f"label set {origin}: '{phrase}' in {place} holds no word")
    return words


def _parse(phrase: str, place: str, origin: str) -> Pattern:
    if not _SIGN.search(phrase):
        return Pattern((), _words(phrase, phrase, place, origin), ())
    parts = _PATTERN.fullmatch(phrase)
    if parts is None:
        raise UserError(
            f"label set {origin}: '{phrase}' in {place}: write words that must stand beside it in one pair of "
            f"parentheses before it or after it, and * for any word only in there"
        )
    before, words, after = parts.groups(default="")
    return Pattern(_context(before), _words(words, phrase, place, origin), _context(after))


def _context(text: str) -> Tokens:
    return tuple(fold(found.group()) for found in _CONTEXT.finditer(text))


def word_lists(file: LabelFile) -> dict[str, frozenset[str]]:
    """The lists that hold single words alone: contexts refer to them; all other mentions of lists are spelt out."""
    tokens = {name: [normalise(phrase) for phrase in phrases] for name, phrases in file.lists.items()}
    return {
        f"<{name}>": frozenset(words[0] for words in found)
        for name, found in tokens.items()
        if all(len(words) == 1 for words in found)
    }


def _spell_out(
    phrase: str, file: LabelFile, lists: Mapping[str, frozenset[str]], place: str, origin: str
) -> Iterator[str]:
    parts = _LIST.split(phrase)
    if len(parts) == 1:
        yield phrase
        return
    choices = [[part] for part in parts]
    for index in range(1, len(parts), 2):
        name, before = parts[index], "".join(parts[:index])
        if name not in file.lists:
            raise UserError(f"label set {origin}: '{phrase}' in {place}: there is no list '{name}' under 'lists'")
        in_context = before.count("(") > before.count(")")
        choices[index] = [f"<{name}>"] if in_context and f"<{name}>" in lists else file.lists[name]
    total = prod(len(choice) for choice in choices)
    if total > MOST_PHRASES:
        raise UserError(f"label set {origin}: '{phrase}' in {place} stands for {total} phrases, at most {MOST_PHRASES}")
    yield from ("".join(chosen) for chosen in product(*choices))
