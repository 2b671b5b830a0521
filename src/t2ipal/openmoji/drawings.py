"""The table of drawings: which OpenMoji code point shows which class, in which split, under which names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml

from t2ipal.errors import UserError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
POT = "1FAB4"


@dataclass(frozen=True)
class Drawing:
    """One drawing and what it shows.

    ``classes`` are the labels it carries (empty for a distractor), the first one its own; ``names`` the
    words web captions use for it with their relative frequency; ``in_pot`` whether it is set into a pot.
    """

    code: str
    classes: tuple[str, ...]
    names: tuple[tuple[str, float], ...]
    in_pot: bool = False
    held_out_appearance: bool = False


@cache
def _table() -> dict[str, Any]:
    text = files("t2ipal.openmoji").joinpath("drawings.yaml").read_text(encoding="utf-8")
    table: dict[str, Any] = yaml.safe_load(text)
    return table


def class_names() -> tuple[str, ...]:
    """The 20 VOC classes, in the official (alphabetical) order."""
    return tuple(_table()["classes"])


def check_drawn(names: Iterable[str]) -> None:
    """Check that every class has drawings.

    Raises:
        UserError: names the first class that has none.
    """
    undrawn = [name for name in names if name not in class_names()]
    if undrawn:
        raise UserError(
            f"config key 'benchmark.labels': benchmark 'openmoji' has no drawing of class '{undrawn[0]}'; "
            "its classes are those of label set 'voc2007'"
        )


def _names(entry: dict[str, Any]) -> tuple[tuple[str, float], ...]:
    return tuple((str(name), float(weight)) for name, weight in entry.items())


def _drawing(name: str, spec: dict[str, Any], entry: Any, held_out: bool) -> Drawing:
    detail: dict[str, Any] = entry if isinstance(entry, dict) else {"code": entry}
    return Drawing(
        code=str(detail["code"]),
        classes=(name, *detail.get("also", ())),
        names=_names(detail.get("names", spec["names"])),
        in_pot=detail.get("set_in") == "pot",
        held_out_appearance=held_out,
    )


@cache
def class_drawings(split: Split) -> dict[str, tuple[Drawing, ...]]:
    """The drawings of every class in ``split``; borrowed train drawings are marked as held-out appearance."""
    drawings = {}
    for name, spec in _table()["classes"].items():
        borrowed = not spec[split]
        entries = spec["train"] if borrowed else spec[split]
        drawings[name] = tuple(_drawing(name, spec, entry, borrowed) for entry in entries)
    return drawings


def _unlabelled(codes: dict[str, Any]) -> tuple[Drawing, ...]:
    return tuple(Drawing(code=str(code), classes=(), names=((name, 1.0),)) for name, code in codes.items())


@cache
def distractors(split: Split) -> tuple[Drawing, ...]:
    """The unlabelled objects that stand about in scenes of ``split``."""
    return _unlabelled(_table()["distractors"][split])


@cache
def web_drawings() -> tuple[Drawing, ...]:
    """The unlabelled objects in the scenes of CLIP's training: the distractors of the train split and further ones."""
    return (*distractors("train"), *_unlabelled(_table()["web"]))
