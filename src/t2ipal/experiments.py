"""Tables and studies: which methods are run under which configurations, and what of it shares one job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from types import MappingProxyType
from typing import Any

from t2ipal.config import Config, changed
from t2ipal.errors import UserError
from t2ipal.layout import Layout, Unit, closure
from t2ipal.methods import ABLATIONS, FEW_SHOT, METHODS, PARTIAL, Method


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

    @cached_property
    def units(self) -> list[Unit]:
        """All that it needs, upstream first."""
        return closure(entry.unit for entry in self.entries)


def _entries(config: Config, methods: Sequence[str], value: Any = None) -> Iterator[Entry]:
    layout = Layout(config)
    yield from (Entry(method, seed, layout, value) for method, seed in product(methods, config.seeds))


def _possible(config: Config, methods: Sequence[str]) -> list[str]:
    """The methods that the configuration leaves something of: without a cache there is no method of it alone."""

    def holds_something(method: Method) -> bool:
        sizes = {f"adapter.{name}": getattr(config.adapter, name) for name in ("prototypes", "keys_per_class")}
        return any(method.changes.get(key, size) for key, size in sizes.items())

    return [name for name in methods if not METHODS[name].adapter or holds_something(METHODS[name])]


def _study(config: Config, name: str, axis: Axis) -> Experiment:
    entries = list(_entries(config, _possible(config, axis.references)))
    for value in dict.fromkeys(getattr(config.studies, axis.field)):
        varied = changed(config, {axis.key: axis.setting(value)})
        entries += _entries(varied, _possible(varied, axis.methods), value)
    return Experiment(name, axis.title, tuple(entries), axis.label, axis.log)


def _by_method(config: Config, name: str, title: str, modes: Mapping[str, str], label: str) -> Experiment:
    entries = [entry for mode, method in modes.items() for entry in _entries(config, (method,), mode)]
    return Experiment(name, title, tuple(entries), label)


def _backbones(config: Config) -> Experiment:
    chosen = [(config.features.backbone, config.features.pretrained)]
    chosen += [(entry.backbone, entry.pretrained) for entry in config.backbones]
    entries: list[Entry] = []
    for backbone, pretrained in dict.fromkeys(chosen):
        changes = {"features.backbone": backbone, "features.pretrained": pretrained}
        entries += _entries(changed(config, changes), config.methods)
    return Experiment("backbones", "Backbones", tuple(entries))


def experiments(config: Config) -> dict[str, Experiment]:
    """All tables and studies by name; ``summary``, the table of ``eval_all``, comes first.

    Raises:
        UserError: a study's value or a variant does not fit, or a local model is missing.
    """
    every = (*_possible(config, ABLATIONS), *config.variants)
    found = [
        Experiment("summary", "Results", tuple(_entries(config, config.methods))),
        Experiment("ablations", "All branches and baselines", tuple(_entries(config, every))),
        _backbones(config),
        *(_study(config, name, axis) for name, axis in AXES.items()),
    ]
    # Of a method of its own, or hard whatever the configuration says.
    hard = changed(config, {"training.labels": "hard"})
    found += [
        _by_method(hard, "study_filter", "Labels of synthetic images", LABEL_MODES, "labels"),
        _by_method(config, "study_data", "What the prompts learn from", DATA_MODES, "training data"),
    ]
    # What does not fit is told here, not where a unit is first asked for.
    for entry in (entry for experiment in found for entry in experiment.entries):
        _ = entry.unit
    return {experiment.name: experiment for experiment in found}


def named(config: Config, name: str) -> Experiment:
    """One table or study.

    Raises:
        UserError: there is none of that name.
    """
    found = experiments(config)
    if name not in found:
        raise UserError(f"there is no experiment '{name}'; there are {', '.join(found)}")
    return found[name]


def trained_on(method: str, config: Config) -> str:
    """What a method or variant learns from, as the table says it."""
    spec, layout = Layout(config).of(method)
    # The other learners leave their scores as they are, whatever the configuration says.
    standardised = spec.learner == "none" and layout.config.scores.normalise
    return replace(spec, transductive=standardised).trained_on
