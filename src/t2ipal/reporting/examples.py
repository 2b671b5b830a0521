"""Which images the report shows: a rule that looks at labels and order only, never at how well they came out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def evenly(names: Sequence[str], count: int) -> list[str]:
    """At most ``count`` of ``names``, evenly spaced, in their order."""
    if len(names) <= count:
        return list(names)
    return [names[index * len(names) // count] for index in range(count)]


def first_of_each(items: Iterable[tuple[Item, Iterable[str]]], classes: Sequence[str]) -> list[tuple[str, Item]]:
    """Go through ``items`` (item, labels) once; take each that shows a class which has no item yet.

    Returns (class, item) in the order of ``classes``; classes that nothing shows are left out. Stops reading as
    soon as every class has its item.
    """
    pending, taken = list(classes), dict[str, Item]()
    if not pending:
        return []
    for item, labels in items:
        shown = set(labels)
        name = next((name for name in pending if name in shown), None)
        if name is not None:
            taken[name] = item
            pending.remove(name)
        if not pending:
            break
    return [(name, taken[name]) for name in classes if name in taken]
