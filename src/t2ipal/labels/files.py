"""The file format of a label set (docs/labels.md): what a file may hold, and what is wrong with one that does not fit.

A label set is a YAML file, shipped (``labelsets/voc2007.yaml``) or the user's own. Only ``classes`` is needed,
as a list of names or as a mapping from names to words::

    lists:
      colour: [red, blue]            # a phrase may say <colour>: it stands for one phrase with each of the words
    classes:
      dog:
        prompt: dog                    # how prompts say it; default: the name, with spaces for underscores
        display: Dog                   # how tables and figures say it; default: the prompt name
        synonyms: [doggy]              # words for the class itself, singular; captions may use them in its place
        kinds: [puppy, poodle]         # narrower words that imply the class: mined, never drawn
        exclusions: [hot dog]          # phrases that contain such a word and mean something else
        implies: [animal]              # classes which every picture of this one shows
        plurals: {puppy: [puppies]}    # only where the derived ones (`t2ipal labels`) are wrong; [] for none
        variants: {doggy: [doggie]}    # the same for other spellings
        nouns_only: true               # false: the optional part-of-speech check lets verbs and adjectives pass
    shared:
      police dog: [police, dog]        # phrases that mention several classes at once
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, Field, StringConstraints, ValidationError, field_validator, model_validator

from t2ipal.errors import UserError

Phrase = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, pattern=r"^[^\n\r]+$")]


class Words(BaseModel, extra="forbid", frozen=True, strict=True):
    """What a file says about one class."""

    prompt: Phrase | None = None
    display: Phrase | None = None
    synonyms: list[Phrase] = []
    kinds: list[Phrase] = []
    exclusions: list[Phrase] = []
    implies: list[Phrase] = []
    plurals: dict[Phrase, list[Phrase]] = {}
    variants: dict[Phrase, list[Phrase]] = {}
    nouns_only: bool = True


class LabelFile(BaseModel, extra="forbid", frozen=True, strict=True):
    """What a file says."""

    lists: dict[Phrase, list[Phrase]] = {}
    classes: dict[Phrase, Words] = Field(min_length=1)
    shared: dict[Phrase, list[Phrase]] = {}

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
    def _what_is_referred_to_is_there(self) -> LabelFile:
        for phrase, names in self.shared.items():
            for name in names:
                if name not in self.classes or names.count(name) > 1 or len(names) < 2:
                    raise ValueError(f"shared.{phrase}: needs two or more different classes, not {', '.join(names)}")
        for name, words in self.classes.items():
            phrases = {name, words.prompt or name, *words.synonyms, *words.kinds, *words.exclusions}
            known = {form for phrase in phrases for form in (phrase, phrase.rpartition(" ")[2])}
            for word in words.plurals.keys() - known:
                raise ValueError(f"classes.{name}.plurals: no phrase of the class ends in '{word}'")
            for phrase in words.variants.keys() - phrases:
                raise ValueError(f"classes.{name}.variants: the class has no phrase '{phrase}'")
            for other in words.implies:
                if other not in self.classes or other == name:
                    raise ValueError(f"classes.{name}.implies: there is no other class '{other}'")
        return self


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the C parser is ten times faster
    """Refuses a key that stands twice in a mapping, which YAML would let win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' stands twice", node.start_mark)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def shipped() -> tuple[str, ...]:
    """Names of the label sets that come with the package."""
    entries = files("t2ipal.labelsets").iterdir()
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml")))


def read(name_or_path: str) -> LabelFile:
    """The file of a shipped label set, or the user's own.

    Raises:
        UserError: there is no such file, or it does not fit; names the file and the key.
    """
    text = _text(name_or_path)
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", error)
        reason = f"{problem} (line {mark.line + 1})" if mark else str(error).splitlines()[0]
        raise UserError(f"label set {name_or_path} is not valid YAML: {reason}") from None
    if not isinstance(values, dict):
        raise UserError(f"label set {name_or_path} must hold a mapping with the key 'classes'")
    try:
        return LabelFile.model_validate(values)
    except ValidationError as error:
        raise UserError(f"label set {name_or_path}: {_sentence(error)}") from None


def _text(name_or_path: str) -> str:
    if name_or_path in shipped():
        return files("t2ipal.labelsets").joinpath(f"{name_or_path}.yaml").read_text(encoding="utf-8")
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(
            f"there is no label set '{name_or_path}'; give the path of a YAML file or one of: {', '.join(shipped())}"
        )
    try:
        return path.read_text(encoding="utf-8")
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
