"""Tables and studies: which methods are run under which configurations, and what of it shares one job."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from types import MappingProxyType
from typing import Any

from t2ipal.config import Config, changed, members
from t2ipal.errors import UserError
from t2ipal.layout import Layout
from t2ipal.methods import ABLATIONS, FEW_SHOT, METHODS, PARTIAL, Method
from t2ipal.settings import BenchmarkSettings
from t2ipal.units import Unit, closure


@dataclass(frozen=True)
class Axis:
    """What a study varies: ``field`` of the section ``studies`` holds the values of the configuration ``key``.

    ``methods`` are run at each value, ``references`` once, under the unchanged configuration. ``listed``: the key
    is a list to search through, and the value becomes its only entry. ``weighed``: the key gives weights to names,
    and the value becomes the only name.
    """

    title: str
    field: str
    key: str
    label: str
    methods: tuple[str, ...]
    references: tuple[str, ...] = ()
    listed: bool = False
    weighed: bool = False
    log: bool = False

    def setting(self, value: Any) -> Any:
        """What the key is set to for a value of the study."""
        return [value] if self.listed else {value: 1.0} if self.weighed else value


_JOINT = ("t2i-pal-prompts", "t2i-pal")
_TUNED = ("tai-dpt", "t2i-pal-prompts")
AXES: Mapping[str, Axis] = MappingProxyType(
    {
        "few_shot": Axis(
            "Few real images beside synthetic ones",
            "shots",
            "real.shots",
            "real images per class",
            FEW_SHOT,
            ("zero-shot-local", "t2i-pal"),
            log=True,
        ),
        "partial_labels": Axis(
            "Real images with a share of their labels",
            "known",
            "real.known",
            "known share of labels",
            PARTIAL,
            ("t2i-pal", "oracle"),
        ),
        "study_images": Axis(
            "Number of captions, one image each",
            "images",
            "captions.total",
            "captions",
            ("tai-dpt", *_JOINT),
            ("zero-shot-local",),
            log=True,
        ),
        "study_replicas": Axis(
            "Images per caption", "replicas", "synthesis.images_per_caption", "images per caption", _JOINT, log=True
        ),
        "study_guidance": Axis("Guidance scale", "guidance", "synthesis.guidance", "guidance scale", _JOINT),
        "study_steps": Axis("Denoising steps", "steps", "synthesis.steps", "denoising steps", _JOINT, log=True),
        "study_classes": Axis(
            "Classes named in a caption",
            "classes",
            "captions.max_classes",
            "classes in a caption, at most",
            ("tai-dpt", *_JOINT),
        ),
        "study_sources": Axis(
            "Where captions come from",
            "sources",
            "captions.sources",
            "source of captions",
            ("tai-dpt", *_JOINT),
            weighed=True,
        ),
        "study_prototypes": Axis(
            "Prototypes per class",
            "prototypes",
            "adapter.prototypes",
            "prototypes per class",
            ("t2i-pal-prototypes", "t2i-pal"),
            log=True,
        ),
        "study_alpha": Axis(
            "Weight of the adapter", "alpha", "adapter.alphas", "alpha", ("t2i-pal",), ("t2i-pal-prompts",), listed=True
        ),
        "study_beta": Axis(
            "Sharpness of the adapter",
            "beta",
            "adapter.betas",
            "beta",
            ("t2i-pal",),
            ("t2i-pal-prompts",),
            listed=True,
            log=True,
        ),
        "study_context": Axis("Context length", "context", "prompts.length", "context tokens", _TUNED, log=True),
        "study_loss": Axis("Loss", "loss", "loss.name", "loss", _TUNED),
        "study_presence": Axis(
            "Least presence of a label",
            "presence",
            "training.presence",
            "least presence of every label",
            ("t2i-pal-filtered",),
            ("t2i-pal",),
        ),
    }
)
# A study by method: what the same prompts learn from.
DATA_MODES = {"captions": "tai-dpt", "synthetic images": "t2i-pal-prompts", "both": "mixed-prompts"}
# Another one: what becomes of the labels of synthetic images.
LABEL_MODES = {"hard": "t2i-pal", "filtered": "t2i-pal-filtered", "soft": "t2i-pal-soft"}
TABLES = {"summary": "Results", "ablations": "All branches and baselines", "backbones": "Backbones"}
NAMES = (*TABLES, *AXES, "study_filter", "study_data")


@dataclass(frozen=True)
class Entry:
    """One model to measure: a method and seed under a configuration; ``value`` is its place on the study's axis."""

    method: str
    seed: int
    layout: Layout
    value: Any = None

    @cached_property
    def unit(self) -> Unit:
        """Its evaluation."""
        return self.layout.evaluation(self.method, self.seed)


@dataclass(frozen=True)
class Experiment:
    """A table or study. Without an axis it is a table of methods."""

    name: str
    title: str
    entries: tuple[Entry, ...]
    label: str | None = None
    log: bool = False

    def on(self, benchmark: BenchmarkSettings) -> Experiment:
        """What of it is about one benchmark of several."""
        return replace(self, entries=tuple(e for e in self.entries if e.layout.config.benchmark == benchmark))

    @cached_property
    def units(self) -> list[Unit]:
        """All that it needs, upstream first."""
        return closure(entry.unit for entry in self.entries)


def _entries(config: Config, methods: Sequence[str], value: Any = None) -> Iterator[Entry]:
    layout = Layout(config)
    yield from (Entry(method, seed, layout, value) for method, seed in product(methods, config.seeds))


def _has_real_images(config: Config) -> bool:
    """Whether the benchmark has training images, and their list is there if it is not downloaded."""
    try:
        Layout(config).index("train")
    except UserError:
        return False
    return True


def _with_data(config: Config, methods: Sequence[str]) -> list[str]:
    real = _has_real_images(config)
    return [name for name in methods if real or "train" not in METHODS[name].data]


def _possible(config: Config, methods: Sequence[str]) -> list[str]:
    """The methods that the configuration leaves something of: without a cache there is no method of it alone.

    Nor is there one that learns from real images where the benchmark has none.
    """

    def holds_something(method: Method) -> bool:
        sizes = {f"adapter.{name}": getattr(config.adapter, name) for name in ("prototypes", "keys_per_class")}
        return not method.adapter or any(method.changes.get(key, size) for key, size in sizes.items())

    return [name for name in _with_data(config, methods) if holds_something(METHODS[name])]


def _study(config: Config, name: str, axis: Axis) -> Experiment:
    entries = list(_entries(config, _possible(config, axis.references)))
    for value in dict.fromkeys(getattr(config.studies, axis.field)):
        varied = changed(config, {axis.key: axis.setting(value)})
        entries += _entries(varied, _possible(varied, axis.methods), value)
    return Experiment(name, axis.title, tuple(entries), axis.label, axis.log)


def _by_method(config: Config, name: str, title: str, modes: Mapping[str, str], label: str) -> Experiment:
    entries = [entry for mode, method in modes.items() for entry in _entries(config, (method,), mode)]
    return Experiment(name, title, tuple(entries), label)


def _backbones(config: Config) -> Iterator[Entry]:
    chosen = [(config.features.backbone, config.features.pretrained)]
    chosen += [(entry.backbone, entry.pretrained) for entry in config.backbones]
    for backbone, pretrained in dict.fromkeys(chosen):
        changes = {"features.backbone": backbone, "features.pretrained": pretrained}
        yield from _entries(changed(config, changes), config.methods)


def _tables(configs: Sequence[Config]) -> list[Experiment]:
    """The tables of methods, each with all benchmarks of the run."""
    rows: dict[str, Callable[[Config], Iterator[Entry]]] = {
        "summary": lambda config: _entries(config, config.methods),
        "ablations": lambda config: _entries(config, (*_possible(config, ABLATIONS), *config.variants)),
        "backbones": _backbones,
    }
    return [
        Experiment(name, title, tuple(entry for config in configs for entry in rows[name](config)))
        for name, title in TABLES.items()
    ]


def _studies(config: Config) -> list[Experiment]:
    # Of a method of its own, or hard whatever the configuration says.
    hard = changed(config, {"training.labels": "hard"})
    return [
        *(_study(config, name, axis) for name, axis in AXES.items() if _with_data(config, axis.methods)),
        _by_method(hard, "study_filter", "Labels of synthetic images", LABEL_MODES, "labels"),
        _by_method(config, "study_data", "What the prompts learn from", DATA_MODES, "training data"),
    ]


def experiments(config: Config) -> dict[str, Experiment]:
    """All tables and studies by name; ``summary``, the table of ``eval_all``, comes first.

    A study is of one benchmark: a run of several (``together``) has tables only.

    Raises:
        UserError: a study's value or a variant does not fit, or a local model is missing.
    """
    configs = members(config)
    found = _tables(configs) + (_studies(configs[0]) if len(configs) == 1 else [])
    # What does not fit is told here, not where a unit is first asked for.
    for entry in (entry for experiment in found for entry in experiment.entries):
        _ = entry.unit
    return {experiment.name: experiment for experiment in found}


def named(config: Config, name: str) -> Experiment:
    """One table or study.

    Raises:
        UserError: there is none of that name, or none with this configuration.
    """
    return chosen(experiments(config), name, config)


def chosen(found: Mapping[str, Experiment], name: str, config: Config) -> Experiment:
    """That of a name among all tables and studies of a configuration.

    Raises:
        UserError: there is none of that name, or none with this configuration.
    """
    if name not in found:
        raise UserError(_absence(config, name))
    return found[name]


def _absence(config: Config, name: str) -> str:
    """Why ``name`` is none of the tables and studies of a configuration."""
    if name not in NAMES:
        return f"there is no experiment '{name}'; there are {', '.join(NAMES)}"
    if config.together:
        return f"'{name}' is of one benchmark, and config key 'together' names several: configure that one alone"
    return (
        f"'{name}' learns from real images, and benchmark '{config.benchmark.name}' has no train images here; "
        "use one that has, or name the file of theirs (docs/benchmarks.md)"
    )


def trained_on(method: str, config: Config) -> str:
    """What a method or variant learns from, as the table says it."""
    spec, layout = Layout(config).of(method)
    # The other learners leave their scores as they are, whatever the configuration says.
    standardised = spec.learner == "none" and layout.config.scores.normalise
    return replace(spec, transductive=standardised).trained_on
