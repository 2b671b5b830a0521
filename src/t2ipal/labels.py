"""Label sets: the classes, the words for them, and which classes a text mentions (the noun filter, method.md §1).

A label set is a YAML file, shipped (``labelsets/voc2007.yaml``) or the user's own. Only ``classes`` is needed,
as a list of names or as a mapping from names to words::

    classes:
      dog:
        prompt: dog                    # how prompts say it; default: the name, with spaces for underscores
        synonyms: [doggy]              # words for the class itself, singular; captions may use them in its place
        kinds: [puppy, poodle]         # narrower words that imply the class: mined, never drawn
        plurals: {puppy: [puppies]}    # only where the simple English rules fail
        exclusions: [hot dog]          # phrases that contain such a word and mean something else
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import BaseModel, Field, StringConstraints, ValidationError, field_validator, model_validator

from t2ipal.errors import UserError

Tokens = tuple[str, ...]
Phrase = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, pattern=r"^[^\n\r]+$")]

# Words, without the 's of a possessive; and punctuation that ends a phrase, so that "a bus, stop signs" names a bus.
_TOKEN = re.compile(r"(?!(?<=\w['\u2019])s\b)[^\W_]+|[.,;:!?](?=\s|$)|[()\[\]|]", re.IGNORECASE)
_IRREGULAR = {
    "person": "people", "child": "children", "man": "men", "woman": "women", "foot": "feet", "tooth": "teeth",
    "goose": "geese", "mouse": "mice", "ox": "oxen", "calf": "calves", "half": "halves", "knife": "knives",
    "wife": "wives", "leaf": "leaves", "loaf": "loaves", "shelf": "shelves", "wolf": "wolves", "scarf": "scarves",
    "potato": "potatoes", "tomato": "tomatoes", "hero": "heroes", "sheep": "sheep", "deer": "deer", "fish": "fish",
    "aircraft": "aircraft", "watercraft": "watercraft", "cattle": "cattle", "human": "humans", "german": "germans",
}  # fmt: skip


class Match(NamedTuple):
    """A mention of a class: ``phrase`` is ``text[start:end]`` as written."""

    label: str
    start: int
    end: int
    phrase: str


class _Words(BaseModel, extra="forbid", frozen=True, strict=True):
    prompt: Phrase | None = None
    synonyms: list[Phrase] = []
    kinds: list[Phrase] = []
    plurals: dict[Phrase, list[Phrase]] = {}
    exclusions: list[Phrase] = []


class _File(BaseModel, extra="forbid", frozen=True, strict=True):
    classes: dict[Phrase, _Words] = Field(min_length=1)

    @field_validator("classes", mode="before")
    @classmethod
    def _names_alone_will_do(cls, value: Any) -> Any:
        if isinstance(value, list):
            for index, name in enumerate(value):
                if not isinstance(name, str):
                    raise ValueError(f"{name!r} is no text; put the name in quotes")
                if name in value[:index]:
                    raise ValueError(f"lists '{name}' twice")
            return {name: {} for name in value}
        return {k: {} if v is None else v for k, v in value.items()} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _plurals_belong_to_words(self) -> _File:
        for name, words in self.classes.items():
            phrases = (name, words.prompt or name, *words.synonyms, *words.kinds, *words.exclusions)
            known = {form for phrase in phrases for form in (phrase, phrase.rpartition(" ")[2])}
            for word in words.plurals.keys() - known:
                raise ValueError(f"classes.{name}.plurals: no phrase of the class ends in '{word}'")
        return self


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, which YAML would let win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def normalise(text: str) -> Tokens:
    """The words of ``text`` as they are compared: NFKC, case-folded, without punctuation and possessive 's."""
    tokens = (found.group() for found in _TOKEN.finditer(text))
    return tuple(_fold(token) for token in tokens if token[0].isalnum())


def _fold(token: str) -> str:
    return token.lower() if token.isascii() else unicodedata.normalize("NFKC", token).casefold()


def plural(word: str) -> str:
    """The plural of a singular noun phrase by simple English rules applied to its last word."""
    head, separator, last = word.rpartition(" ")
    lower = last.lower()
    if lower in _IRREGULAR:
        changed = _IRREGULAR[lower]
    elif lower.endswith("man"):
        changed = f"{last[:-2]}en"
    elif lower.endswith(("s", "x", "z", "ch", "sh")):
        changed = f"{last}es"
    elif lower.endswith("y") and lower[-2:-1] not in ("", *"aeiou"):
        changed = f"{last[:-1]}ies"
    else:
        changed = f"{last}s"
    return f"{head}{separator}{changed}"


@dataclass(frozen=True)
class LabelSet:
    """Classes in their official order and the words for them; see the module's text for the four kinds of words."""

    names: tuple[str, ...]
    prompts: Mapping[str, str] = field(hash=False)
    synonyms: Mapping[str, tuple[str, ...]] = field(hash=False)
    kinds: Mapping[str, tuple[str, ...]] = field(hash=False)
    plurals: Mapping[str, Mapping[str, tuple[str, ...]]] = field(hash=False)
    exclusions: Mapping[str, tuple[str, ...]] = field(hash=False)
    origin: str = "label set"

    @classmethod
    def load(cls, name_or_path: str | Path) -> LabelSet:
        """A shipped label set by its name, or one from a YAML file by its path.

        Raises:
            UserError: there is no such label set, or the file does not fit: not YAML, an unknown key, no class,
                or one phrase for two classes (or for a class and an exclusion); names the file and both places.
        """
        text, origin = _read(str(name_or_path))
        try:
            values = yaml.load(text, Loader=_Loader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            problem = getattr(error, "problem", error)
            reason = f"{problem} (line {mark.line + 1})" if mark else str(error).splitlines()[0]
            raise UserError(f"label set {origin} is not valid YAML: {reason}") from None
        if not isinstance(values, dict):
            raise UserError(f"label set {origin} must hold a mapping with the key 'classes'")
        try:
            parsed = _File.model_validate(values).classes
        except ValidationError as error:
            raise UserError(f"label set {origin}: {_sentence(error)}") from None
        labels = cls(
            names=tuple(parsed),
            prompts={name: words.prompt or name.replace("_", " ") for name, words in parsed.items()},
            synonyms={name: tuple(words.synonyms) for name, words in parsed.items()},
            kinds={name: tuple(words.kinds) for name, words in parsed.items()},
            plurals={name: {k: tuple(v) for k, v in words.plurals.items()} for name, words in parsed.items()},
            exclusions={name: tuple(words.exclusions) for name, words in parsed.items()},
            origin=origin,
        )
        _ = labels._compiled  # clashes are told here, not at the first caption
        return labels

    def prompt_name(self, name: str) -> str:
        """How a prompt says class ``name``: "dining table" for ``diningtable``."""
        return self.prompts[name]

    def mine(self, text: str) -> tuple[Match, ...]:
        """Every mention of a class in ``text``, in order of appearance.

        At each word the longest known phrase wins, so that compounds go before their parts; an exclusion
        uses up its words without a mention. Case, possessives, hyphens and Unicode forms do not matter.
        """
        table, longest = self._compiled
        tokens = list(_TOKEN.finditer(text))
        folded = [_fold(token.group()) for token in tokens]
        matches, index = [], 0
        while index < len(folded):
            size = min(longest.get(folded[index], 0), len(folded) - index)
            while size and tuple(folded[index : index + size]) not in table:
                size -= 1
            if not size:
                index += 1
                continue
            label = table[tuple(folded[index : index + size])]
            if label is not None:
                start, end = tokens[index].start(), tokens[index + size - 1].end()
                matches.append(Match(label, start, end, text[start:end]))
            index += size
        return tuple(matches)

    def labels(self, text: str) -> tuple[str, ...]:
        """The classes that ``text`` mentions, each once, in the order of the label set."""
        found = {match.label for match in self.mine(text)}
        return tuple(name for name in self.names if name in found) if found else ()

    def _stated(self) -> Iterator[_Entry]:
        """All phrases that the file states."""
        for name in self.names:
            yield _Entry(name, f"classes.{name}", name, name)
            yield _Entry(self.prompts[name], f"classes.{name}.prompt", name, name)
            yield from (_Entry(phrase, f"classes.{name}.synonyms", name, name) for phrase in self.synonyms[name])
            yield from (_Entry(phrase, f"classes.{name}.kinds", name, name) for phrase in self.kinds[name])
            yield from (_Entry(phrase, f"classes.{name}.exclusions", name, None) for phrase in self.exclusions[name])

    def _derived(self) -> Iterator[_Entry]:
        """Their plurals: those that the file states for a phrase or for its last word, else by the rules."""
        for entry in self._stated():
            stated = self.plurals[entry.owner]
            head, separator, last = entry.phrase.rpartition(" ")
            if entry.phrase in stated:
                plurals = stated[entry.phrase]
            elif last in stated:
                plurals = tuple(f"{head}{separator}{form}" for form in stated[last])
            else:
                plurals = (plural(entry.phrase),)
            yield from (entry._replace(phrase=form, place=f"{entry.place} (plural)") for form in plurals)

    @cached_property
    def _compiled(self) -> tuple[dict[Tokens, str | None], dict[str, int]]:
        """Label (None: exclusion) by phrase, and the length of the longest phrase by its first word."""
        stated = _table(self._stated(), self.origin)
        # What is written down goes before what is derived: a class "glasses" keeps its name beside a class "glass".
        derived = _table((e for e in self._derived() if normalise(e.phrase) not in stated), self.origin)
        table = derived | stated
        longest: dict[str, int] = {}
        for tokens in table:
            longest[tokens[0]] = max(longest.get(tokens[0], 0), len(tokens))
        return table, longest


class _Entry(NamedTuple):
    """A phrase, where the file has it, the class it stands under, and the class it means (None: an exclusion)."""

    phrase: str
    place: str
    owner: str
    label: str | None


def _table(entries: Iterable[_Entry], origin: str) -> dict[Tokens, str | None]:
    """Labels by phrase.

    Raises:
        UserError: a phrase means two things, or holds no word.
    """
    table: dict[Tokens, str | None] = {}
    places: dict[Tokens, str] = {}
    for phrase, place, _, label in entries:
        tokens = normalise(phrase)
        if not tokens:
            raise UserError(f"label set {origin}: '{phrase}' in {place} holds no word")
        if table.setdefault(tokens, label) != label:
            raise UserError(
                f"label set {origin}: '{phrase}' stands in {places[tokens]} and in {place}; keep it in one of them"
            )
        places.setdefault(tokens, place)
    return table


def shipped() -> tuple[str, ...]:
    """Names of the label sets that come with the package."""
    entries = files("t2ipal.labelsets").iterdir()
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml")))


def _read(name_or_path: str) -> tuple[str, str]:
    """Text and origin of a label set."""
    if name_or_path in shipped():
        return files("t2ipal.labelsets").joinpath(f"{name_or_path}.yaml").read_text(encoding="utf-8"), name_or_path
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(
            f"there is no label set '{name_or_path}'; give the path of a YAML file or one of: {', '.join(shipped())}"
        )
    try:
        return path.read_text(encoding="utf-8"), name_or_path
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read label set {path}: {getattr(error, 'strerror', 'it is not UTF-8 text')}") from None


def _sentence(error: ValidationError) -> str:
    # A misspelt key is told before the one that is missing for it.
    problem = min(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in problem["loc"] if part != "[key]")
    if problem["type"] == "extra_forbidden":
        return f"key '{key}' is unknown"
    if problem["type"] == "missing":
        return f"key '{key}' is missing"
    if problem["type"] == "too_short":
        return "'classes' must name at least one class"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"key '{key}': {message} (given: {problem['input']!r})" if key else message
