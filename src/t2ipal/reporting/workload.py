"""How much the stages of a run had to do, told by its units alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from t2ipal.batches import images
from t2ipal.units import Unit

_THINGS = {
    "captions": "captions",
    "synthesis": "images",
    "verification": "images",
    "features": "rows",
    "training": "models",
    "evaluation": "models",
}


def _images(unit: Unit) -> int:
    return images((unit, piece) for piece in unit.pieces)


def _rows(unit: Unit) -> int:
    above = unit.upstream[0] if unit.upstream else None
    if above is None:
        found: int = unit.settings["benchmark"][f"{unit.settings['source']}_images"]
        return found
    if above.stage == "synthesis":
        return _images(above)
    return int(above.settings["total" if above.stage == "captions" else "images"])


def _size(unit: Unit) -> int:
    if unit.stage == "captions":
        return int(unit.settings["total"])
    if unit.stage in ("synthesis", "verification"):
        return _images(unit if unit.stage == "synthesis" else unit.upstream[0])
    return _rows(unit) if unit.stage == "features" else 1


def workload(units: Iterable[Unit]) -> dict[str, tuple[int, str]]:
    """Number and name of what each stage works on: ``{"captions": (1600, "captions")}``; not of every stage."""
    counts: Counter[str] = Counter()
    for unit in units:
        if unit.stage in _THINGS:
            counts[unit.stage] += _size(unit)
    return {stage: (count, _THINGS[stage]) for stage, count in counts.items()}
