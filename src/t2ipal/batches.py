"""What shares one job: models and evaluations that read the same features, shards that the same generator draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from t2ipal.experiments import Experiment
from t2ipal.io import canonical_json
from t2ipal.layout import Unit
from t2ipal.sequences import batched
from t2ipal.synthesis.plan import Shard


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
