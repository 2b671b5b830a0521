"""Where everything lies: the units of work of a run, their settings, fingerprints and directories.

This module is the only place that knows paths; the Snakefile asks it, and nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from t2ipal.acquisition.catalogue import Item, owner
from t2ipal.benchmarks import load
from t2ipal.config import Config, changed
from t2ipal.identity import (
    clip_identity,
    file_identities,
    llm_identity,
    model_identity,
    tokenizer_identity,
)
from t2ipal.methods import METHODS, SECTIONS, Labels, Method
from t2ipal.splits import label_settings, split_index, split_settings
from t2ipal.synthesis.plan import shard_names
from t2ipal.units import Unit

# Methods whose class embeddings the modality gap is measured with, beside those of the default prompt.
GAP_METHODS = ("tai-dpt", "t2i-pal", "oracle")
# Keys of `training` that say nothing to a model with labels of each kind.
_UNUSED: Mapping[Labels, tuple[str, ...]] = MappingProxyType(
    {"hard": ("labels", "presence"), "filtered": (), "soft": ("presence",)}
)


# What a stage leaves in a unit's directory, the last written last; those in pieces have a file for each.
_PRODUCTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "captions": ("captions.parquet",),
        "index": ("index.parquet",),
        "training": ("model.safetensors", "model.json"),
        "evaluation": ("scores.parquet", "metrics.json"),
        "gap": ("gap.json",),
    }
)
_PIECEWISE = ("features", "verification")
# What only says how a stage is to go about it: it is told at the start of a job and is no part of a fingerprint.
_SYNTHESIS_OPERATION = {"device", "images_per_caption", "shards_per_job"}
_FEATURE_OPERATION = {"device", "parts_per_job", "workers"}
_LLM_OPERATION = {"batch_size", "cache", "concurrency", "device", "key_variable", "retries", "timeout", "url"}
# Keys that came later: where they say nothing, what was made without them stays valid.
_LATER = ("input_size", "resize")


class Layout:
    """All units of a configuration."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.root = Path(config.results)
        self._resolved: dict[str, tuple[Method, Layout]] = {}
        self._directories: dict[tuple[str, str], Path] = {}

    def directory(self, unit: Unit) -> Path:
        """``results/<stage>/<run>``."""
        key = unit.stage, unit.run
        if key not in self._directories:
            self._directories[key] = self.root.joinpath(*key)
        return self._directories[key]

    def shard(self, unit: Unit, piece: str) -> tuple[Path, Path]:
        """The archive of one shard of a unit of synthesis, and its manifest."""
        folder = self.directory(unit)
        return folder / f"shard-{piece}.tar", folder / f"shard-{piece}.json"

    def files(self, unit: Unit) -> list[Path]:
        """The files of a finished unit."""
        folder = self.directory(unit)
        if unit.stage == "synthesis":
            return [path for piece in unit.pieces for path in self.shard(unit, piece)]
        if unit.stage in _PIECEWISE:
            return [folder / f"part-{piece}.parquet" for piece in unit.pieces]
        products = _PRODUCTS[unit.stage]
        if unit.stage == "evaluation" and unit.settings["benchmark"]["name"] == "own":
            products = ("predictions.csv", *products)
        return [folder / name for name in products]

    def _data_seed(self, seed: int) -> int:
        return seed if self.config.redraw_per_seed else self.config.seeds[0]

    def index(self, split: str) -> Unit | None:
        """The list of a split's images with their labels; None where images are rendered.

        Raises:
            UserError: the benchmark has no such split, or the files that it is told by are not there.
        """
        return split_index(self.config.benchmark, split)

    def captions(self, seed: int) -> Unit:
        """The captions of a seed. Sources that are not in use are no part of them."""
        config, seed = self.config, self._data_seed(seed)
        captions = config.captions
        unused = {name for name in ("llm", "corpus") if name not in captions.used}
        settings = {
            **captions.model_dump(mode="json", exclude=unused),
            **label_settings(config.benchmark),
            "seed": seed,
        }
        settings["sources"] = {name: weight for name, weight in captions.sources.items() if weight}
        settings["tokenizer_identity"] = tokenizer_identity(captions.tokenizer)
        identities: dict[str, str] = {}
        if captions.template.pairs is not None:
            identities |= file_identities("captions.template.pairs", (captions.template.pairs,))
        if "llm" in captions.used:
            settings["llm"] = {k: v for k, v in settings["llm"].items() if k not in _LLM_OPERATION}
            identities["llm"] = llm_identity(captions.llm)
        acquired: dict[str, Item] = {}
        if "corpus" in captions.used:
            for key in ("files", "evaluation_ids"):
                patterns: tuple[str, ...] = getattr(captions.corpus, key)
                owners = {pattern: owner(pattern, Path(config.benchmark.downloads)) for pattern in patterns}
                acquired |= {found.name: found for found in owners.values() if found}
                identities |= {pattern: found.identity for pattern, found in owners.items() if found}
                own = tuple(pattern for pattern, found in owners.items() if not found)
                identities |= file_identities(f"captions.corpus.{key}", own)
        return Unit(
            "captions",
            f"{config.benchmark.name}-s{seed}",
            {**settings, "identities": identities},
            operation=captions.llm.model_dump(mode="json", include=_LLM_OPERATION) if "llm" in captions.used else {},
            needs=tuple(str(found.manifest(Path(config.benchmark.downloads))) for found in acquired.values()),
        )

    def synthesis(self, seed: int) -> Unit:
        """The synthetic images of a seed. How many there are, and the device they are drawn on, is no part of them."""
        config, seed = self.config, self._data_seed(seed)
        settings = config.synthesis.model_dump(mode="json", exclude=_SYNTHESIS_OPERATION)
        settings["model_identity"] = model_identity(config.synthesis.model)
        if config.synthesis.lora is not None:
            settings["lora_identity"] = model_identity(config.synthesis.lora)
        settings["seed"] = seed
        name = f"{config.benchmark.name}-s{seed}"
        operation = {"device": config.synthesis.device}
        return Unit("synthesis", name, settings, (self.captions(seed),), self.shards(), True, operation)

    def shards(self) -> tuple[str, ...]:
        """Names of the shards of one seed: enough for every caption's replicas. Follow from the config alone."""
        config = self.config
        return shard_names(config.captions.total, config.synthesis.images_per_caption, config.synthesis.shard_size)

    def verification(self, seed: int) -> Unit:
        """The scores of a seed's synthetic images for every class, by the CLIP that verifies; a part per shard."""
        config, seed = self.config, self._data_seed(seed)
        evaluated = (config.features.backbone, config.features.pretrained)
        chosen = (config.verification.backbone, config.verification.pretrained)
        backbone, pretrained = evaluated if chosen[0] is None else chosen
        identity = clip_identity(backbone, pretrained)
        settings = {
            **config.verification.model_dump(mode="json", exclude={"device"}),
            "backbone": backbone,
            "pretrained": pretrained,
            "model_identity": identity,
            "same_as_evaluated": (identity, pretrained) == (clip_identity(*evaluated), evaluated[1]),
            **label_settings(config.benchmark),
        }
        name = f"{config.benchmark.name}-s{seed}"
        operation = {"device": config.verification.device}
        return Unit("verification", name, settings, (self.synthesis(seed),), self.shards(), True, operation)

    def parts(self, source: str) -> tuple[str, ...]:
        """Names of the Parquet parts of one features unit: one per shard, else by ``features.part_size``."""
        config = self.config
        if source == "synthetic":
            return self.shards()
        if source == "captions":
            rows = config.captions.total
        else:
            index = self.index(source)
            rows = index.settings["images"] if index else load(config.benchmark).count(source)
        return tuple(f"{part:05d}" for part in range(-(-rows // config.features.part_size)))

    def _feature_settings(self) -> dict[str, Any]:
        settings = self.config.features.model_dump(mode="json", exclude=_FEATURE_OPERATION)
        settings = {key: value for key, value in settings.items() if key not in _LATER or value is not None}
        settings["model_identity"] = clip_identity(self.config.features.backbone, self.config.features.pretrained)
        return settings

    def features(self, source: str, seed: int) -> Unit:
        """Features of ``source``: ``synthetic`` or ``captions`` (of a seed), ``train``, ``val`` or ``test``."""
        config = self.config
        settings = {**self._feature_settings(), "source": source}
        operation: dict[str, Any] = config.features.model_dump(include=_FEATURE_OPERATION)
        if source in ("synthetic", "captions"):
            seed = self._data_seed(seed)
            above = self.synthesis(seed) if source == "synthetic" else self.captions(seed)
            name, is_open = f"{config.benchmark.name}-{source}-s{seed}", source == "synthetic"
            return Unit("features", name, settings, (above,), self.parts(source), is_open, operation)
        index = self.index(source)
        if index is None:
            settings |= {"benchmark": split_settings(config.benchmark, source), **label_settings(config.benchmark)}
        operation["missing"] = config.benchmark.missing
        name = f"{config.benchmark.name}-{source}"
        return Unit("features", name, settings, (index,) if index else (), self.parts(source), operation=operation)

    def of(self, method: str) -> tuple[Method, Layout]:
        """A configured method or variant, and the layout of the configuration with the method's changes.

        Raises:
            UserError: a variant sets a key that is unknown or a value that does not fit.
        """
        if method not in self._resolved:
            variant = self.config.variants.get(method)
            found = METHODS[variant.method if variant else method]
            changes = {**found.changes, **(variant.set if variant else {})}
            self._resolved[method] = found, Layout(changed(self.config, changes))
        return self._resolved[method]

    def training(self, method: str, seed: int) -> Unit:
        """A model. Methods that learn nothing are the same for every seed and exist once."""
        spec, layout = self.of(method)
        config = layout.config
        sections = (*SECTIONS[spec.learner], *(["adapter"] if spec.adapter else []))
        settings: dict[str, Any] = {
            "method": method,
            "learner": spec.learner,
            "data": dict(spec.data),
            **label_settings(config.benchmark),
            "features": layout._feature_settings(),
            **{section: getattr(config, section).model_dump(mode="json") for section in sections},
        }
        labels = spec.labels(config.training.labels)
        if "training" in settings:
            for key in ("models_per_job", *_UNUSED[labels]):
                del settings["training"][key]
        name = f"{config.benchmark.name}-{method}"
        operation = {"device": config.features.device}
        if not spec.data:
            return Unit("training", name, settings, operation=operation)
        settings["seed"] = seed
        if spec.real:
            settings["real"] = config.real.model_dump(mode="json")
        above = [layout.training(member, seed) for member in spec.members]
        above += [layout.features(source, seed) for source in spec.data]
        if labels != "hard":
            above.append(layout.verification(seed))
        return Unit("training", f"{name}-s{seed}", settings, tuple(above), operation=operation)

    def gaps(self) -> list[Unit]:
        """The modality gap of each seed, where a method of the table learns from synthetic images."""
        if not any("synthetic" in self.of(method)[0].data for method in self.config.methods):
            return []
        tuned = [method for method in GAP_METHODS if method in self.config.methods]
        return [self._gap(seed, tuned) for seed in self.config.seeds]

    def _gap(self, seed: int, tuned: list[str]) -> Unit:
        """Text, synthetic and test features of a seed beside the class embeddings before and after tuning."""
        settings = {"seed": seed, "benchmark": {"name": self.config.benchmark.name}}
        features = [self.features(source, seed) for source in ("captions", "synthetic", "test")]
        models = [self.training(method, seed) for method in ("zero-shot", *tuned)]
        return Unit("gap", f"{self.config.benchmark.name}-s{seed}", settings, (*features, *models))

    def evaluation(self, method: str, seed: int) -> Unit:
        """Scores and metrics of a model on the test images."""
        _, layout = self.of(method)
        model = self.training(method, seed)
        settings = {"benchmark": split_settings(layout.config.benchmark, "test")}
        if layout.index("test") is not None:
            settings["benchmark"]["missing"] = layout.config.benchmark.missing
        return Unit("evaluation", model.name, settings, (model, layout.features("test", seed)))
