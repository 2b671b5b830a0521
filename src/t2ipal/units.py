"""A unit of work: one directory of results, made by one stage from the units upstream.

Its directory is ``results/<stage>/<name>-<fingerprint>``. The fingerprint hashes the stage's name and version, the
settings that the stage depends on, and the fingerprints upstream; so a changed setting gives new directories for
that stage and those below, and touches nothing above.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from t2ipal.io import digest

# A stage's version changes when its code changes what it would write for the same settings.
VERSIONS = {
    "captions": 2,
    "synthesis": 2,
    "verification": 1,
    "index": 1,
    "features": 1,
    "training": 2,
    "evaluation": 3,
    "gap": 1,
}
# Settings of the captions that leave the rows that there are as they are: their number, and what tokens are counted in.
KEEPING = ("total", "tokenizer", "tokenizer_identity")


@dataclass(frozen=True)
class Unit:
    """One directory of results. ``settings`` is all that its stage is told, besides its input files.

    ``pieces`` names the shards or Parquet parts that it consists of; they follow from the configuration. An ``open``
    unit is one to which pieces may be added: its fingerprint does not tell how many there are, nor does it depend
    on those keys of its captions that leave each of them as it is. ``operation`` is how its jobs are to go about it,
    ``needs`` the manifests of downloads that have to be there first; neither is in the fingerprint.
    """

    stage: str
    name: str
    settings: dict[str, Any] = field(hash=False)
    upstream: tuple[Unit, ...] = ()
    pieces: tuple[str, ...] = field(default=(), compare=False)
    open: bool = False
    operation: dict[str, Any] = field(default_factory=dict, compare=False)
    needs: tuple[str, ...] = field(default=(), compare=False)

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits."""
        return self._digest(self.settings)

    @cached_property
    def stem(self) -> str:
        """The fingerprint without the settings that ``KEEPING`` names."""
        return self._digest({key: value for key, value in self.settings.items() if key not in KEEPING})

    def _digest(self, settings: dict[str, Any]) -> str:
        above = [unit.stem if self.open else unit.extent for unit in self.upstream]
        return digest([self.stage, VERSIONS[self.stage], settings, above])

    @property
    def extent(self) -> str | list[str]:
        """What a unit that is made from the whole of this one depends on."""
        return [self.fingerprint, *self.pieces] if self.open else self.fingerprint

    @property
    def run(self) -> str:
        """The directory's own name."""
        return f"{self.name}-{self.fingerprint}"


def closure(units: Iterable[Unit]) -> list[Unit]:
    """The units and all that they are made from, upstream first, each once.

    An open unit is there once for each number of pieces.
    """
    found: dict[tuple[str, str, tuple[str, ...]], Unit] = {}

    def visit(unit: Unit) -> None:
        key = (unit.stage, unit.run, unit.pieces)
        if key not in found:
            for above in unit.upstream:
                visit(above)
            found[key] = unit

    for unit in units:
        visit(unit)
    return list(found.values())
