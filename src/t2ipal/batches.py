"""What shares one job: models and evaluations that read the same features, shards that the same generator draws."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from t2ipal.experiments import Experiment
from t2ipal.io import canonical_json
from t2ipal.sequences import batched
from t2ipal.synthesis.plan import Shard
from t2ipal.units import Unit


@dataclass(frozen=True)
class Batch:
    """Units of one stage that one job makes, from one loading of the features that they share."""

    stage: str
    experiment: str
    units: tuple[Unit, ...]

    @property
    def name(self) -> str:
        """For its log: the experiment, and the first of its units."""
        return f"{self.experiment}-{self.units[0].run}"

    @property
    def upstream(self) -> tuple[Unit, ...]:
        """What the job needs to be there."""
        own = {unit.run for unit in self.units}
        needed = [above for unit in self.units for above in unit.upstream]
        return tuple({(above.run, above.pieces): above for above in needed if above.run not in own}.values())


def images(shards: Iterable[tuple[Unit, str]]) -> int:
    """How many images shards have: units of synthesis, and names of their shards."""
    return sum(Shard.of(piece, unit.settings["shard_size"]).count for unit, piece in shards)


@dataclass(frozen=True)
class ShardBatch:
    """Shards that one job draws from one loading of the generator: units of synthesis, and names of their shards."""

    experiment: str
    shards: tuple[tuple[Unit, str], ...]

    @property
    def name(self) -> str:
        """For its log: the experiment, and the first of its shards."""
        unit, piece = self.shards[0]
        return f"{self.experiment}-{unit.run}-{piece}"

    @property
    def images(self) -> int:
        """How many it draws."""
        return images(self.shards)

    @property
    def captions(self) -> tuple[Unit, ...]:
        """The captions that are drawn."""
        return tuple({unit.upstream[0].run: unit.upstream[0] for unit, _ in self.shards}.values())


def batches(found: Mapping[str, Experiment], size: int) -> list[Batch]:
    """The trainings and evaluations of all experiments in batches of at most ``size``.

    A unit belongs to the first experiment that needs it, so that a table never waits for a study. Units share a
    batch if they read the same features, and the same verification or none.
    """
    groups: dict[tuple[str, str, tuple[tuple[str, tuple[str, ...]], ...]], list[Unit]] = {}
    seen: set[str] = set()
    for experiment in found.values():
        for unit in experiment.units:
            if unit.stage not in ("training", "evaluation") or f"{unit.stage}/{unit.run}" in seen:
                continue
            seen.add(f"{unit.stage}/{unit.run}")
            above = [above for above in unit.upstream if above.stage in ("features", "verification")]
            read = tuple((found.run, found.pieces) for found in above)
            groups.setdefault((unit.stage, experiment.name, read), []).append(unit)
    return [
        Batch(stage, name, tuple(units))
        for (stage, name, _), members in groups.items()
        for units in batched(members, size)
    ]


@dataclass(frozen=True)
class PartBatch:
    """Parts of one unit of features of synthetic images, that one job makes from one loading of the CLIP."""

    unit: Unit
    pieces: tuple[str, ...]

    @property
    def name(self) -> str:
        """For its log: the unit, and the first of its parts."""
        return f"{self.unit.run}/parts-{self.pieces[0]}"

    @property
    def synthesis(self) -> Unit:
        """The images: parts and shards share names."""
        return self.unit.upstream[0]


def part_batches(found: Mapping[str, Experiment], size: int) -> list[PartBatch]:
    """The parts of all features of synthetic images in batches of at most ``size``, of one replica each."""
    groups: dict[tuple[str, int], dict[str, Unit]] = {}
    for unit in (unit for experiment in found.values() for unit in experiment.units):
        if unit.stage == "features" and unit.settings["source"] == "synthetic":
            shard_size = unit.upstream[0].settings["shard_size"]
            for piece in unit.pieces:
                replica = Shard.of(piece, shard_size).replica
                groups.setdefault((unit.run, replica), {}).setdefault(piece, unit)
    return [
        PartBatch(next(iter(members.values())), tuple(pieces))
        for members in groups.values()
        for pieces in batched(list(members), size)
    ]


def shard_batches(found: Mapping[str, Sequence[Unit]], size: int) -> list[ShardBatch]:
    """The shards of the given units of synthesis, by experiment, in batches of at most ``size``.

    A shard belongs to the first experiment that needs it. Shards of several seeds share a batch, as the model is
    the same; those of different replicas do not, so that more replicas leave the batches that there are alone.
    """
    groups: dict[tuple[str, str, int], list[tuple[Unit, str]]] = {}
    seen: set[tuple[str, str]] = set()
    for experiment, units in found.items():
        for unit in units:
            model = canonical_json({key: value for key, value in unit.settings.items() if key != "seed"})
            for piece in unit.pieces:
                if (unit.run, piece) not in seen:
                    seen.add((unit.run, piece))
                    replica = Shard.of(piece, unit.settings["shard_size"]).replica
                    groups.setdefault((experiment, model, replica), []).append((unit, piece))
    return [
        ShardBatch(experiment, tuple(shards))
        for (experiment, _, _), members in groups.items()
        for shards in batched(members, size)
    ]
