"""Results as records (one number of one method, seed and metric) and rows (their mean and spread over seeds)."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from t2ipal.config import Config, members
from t2ipal.errors import UserError
from t2ipal.experiments import Entry, Experiment, trained_on
from t2ipal.io import read_json


class MetricsFile(BaseModel):
    """A ``metrics.json`` as the evaluation stage writes it. Values are fractions, not percent.

    ``seed`` is None for a method that learns nothing; an AP is None for a class without positive test images.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    benchmark: str
    method: str
    backbone: str
    seed: int | None
    protocol: str
    fingerprint: str
    metrics: dict[str, float]
    average_precisions: dict[str, float | None] = Field(alias="per_class_AP")


@dataclass(frozen=True)
class Result:
    """What was measured for one method and one configured seed; ``point`` is its place on a study's axis."""

    method: str
    seed: int
    content: MetricsFile
    point: Any = None


@dataclass(frozen=True)
class Record:
    """One number of one benchmark, method, backbone, seed and metric; ``point`` as in ``Result``."""

    benchmark: str
    method: str
    backbone: str
    seed: int
    metric: str
    value: float
    protocol: str
    fingerprint: str
    point: Any = None


@dataclass(frozen=True)
class Row:
    """Mean and sample standard deviation (n - 1; 0 for one seed) of a metric over seeds."""

    benchmark: str
    method: str
    backbone: str
    metric: str
    mean: float
    sd: float
    seeds: tuple[int, ...]
    protocol: str
    trained_on: str
    point: Any = None


def _read(path: Path, method: str, seed: int) -> MetricsFile:
    try:
        content = MetricsFile.model_validate(read_json(path))
    except FileNotFoundError:
        raise UserError(
            f"metrics file {path} (method {method}, seed {seed}) is missing; run 'snakemake eval_all' to make it"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read metrics file {path}: {error.strerror}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"])) or "content"
        raise UserError(f"metrics file {path} is damaged ({key}: {problem['msg']}); delete it and rerun") from None
    except ValueError as error:
        raise UserError(f"metrics file {path} is not valid JSON ({error}); delete it and rerun") from None
    if content.method != method or content.seed not in (None, seed):
        raise UserError(
            f"metrics file {path} is of method {content.method}, seed {content.seed}, "
            f"not of method {method}, seed {seed}; delete it and rerun"
        )
    return content


def _directory(entry: Entry) -> Path:
    return entry.layout.directory(entry.unit)


def collect(experiment: Experiment) -> list[Result]:
    """The metrics of every entry, in the order of the experiment.

    A method that learns nothing has one file, which counts for every seed.

    Raises:
        UserError: a metrics file is missing, damaged, or of another method or seed.
    """
    return [
        Result(
            entry.method,
            entry.seed,
            _read(_directory(entry) / "metrics.json", entry.method, entry.seed),
            entry.value,
        )
        for entry in experiment.entries
    ]


def records(results: Sequence[Result]) -> list[Record]:
    """One record per result and metric: methods in the given order, metrics by name, seeds in the given order."""
    order: dict[str, int] = {}
    for result in results:
        order.setdefault(result.method, len(order))
    found = [
        Record(
            benchmark=result.content.benchmark,
            method=result.method,
            backbone=result.content.backbone,
            seed=result.seed,
            metric=metric,
            value=value,
            protocol=result.content.protocol,
            fingerprint=result.content.fingerprint,
            point=result.point,
        )
        for result in results
        for metric, value in result.content.metrics.items()
    ]
    # The sort is stable, so points and seeds keep their order.
    return sorted(found, key=lambda record: (order[record.method], record.metric))


def spread(values: Sequence[float]) -> float:
    """Sample standard deviation (n - 1), 0.0 for a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _trained_on(config: Config, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """What each method learns from on each benchmark of the run."""
    configs: dict[str, Config] = {member.benchmark.name: member for member in members(config)}
    return {(name, method): trained_on(method, configs.get(name, config)) for name, method in pairs}


def rows(found: Sequence[Record], config: Config) -> list[Row]:
    """Records joined over seeds. Numbers of different protocols or points are never joined."""
    groups: dict[tuple[str, str, str, str, str, Any], list[Record]] = {}
    for record in found:
        key = (record.benchmark, record.method, record.backbone, record.metric, record.protocol, record.point)
        groups.setdefault(key, []).append(record)
    sources = _trained_on(config, {(record.benchmark, record.method) for record in found})
    return [
        Row(
            benchmark=benchmark,
            method=method,
            backbone=backbone,
            metric=metric,
            mean=statistics.fmean(record.value for record in group),
            sd=spread([record.value for record in group]),
            seeds=tuple(record.seed for record in group),
            protocol=protocol,
            trained_on=sources[benchmark, method],
            point=point,
        )
        for (benchmark, method, backbone, metric, protocol, point), group in groups.items()
    ]
