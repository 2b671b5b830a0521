"""Where everything lies: the units of work of a run, their settings, fingerprints and directories.

A unit is one directory ``results/<stage>/<name>-<fingerprint>``. Its fingerprint hashes the stage's name and
version, the settings that the stage depends on, and the fingerprints upstream; so a changed setting gives new
directories for that stage and those below, and touches nothing above. This module is the only place that
knows paths; the Snakefile asks it, and nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from t2ipal.config import Config, changed
from t2ipal.identity import file_identities, label_identity, llm_identity, model_identity, tokenizer_identity
from t2ipal.io import digest
from t2ipal.methods import METHODS, SECTIONS, Labels, Method
from t2ipal.synthesis.plan import shards

# Methods whose class embeddings the modality gap is measured with, beside those of the default prompt.
GAP_METHODS = ("tai-dpt", "t2i-pal", "oracle")
# A stage's version changes when its code changes what it would write for the same settings.
VERSIONS = {
    "captions": 2,
    "synthesis": 2,
    "verification": 1,
    "features": 1,
    "training": 2,
    "evaluation": 2,
    "gap": 1,
}
# Settings of the captions that leave the rows that there are as they are: their number, and what tokens are counted in.
KEEPING = ("total", "tokenizer", "tokenizer_identity")
# Keys of `training` that say nothing to a model with labels of each kind.
_UNUSED: Mapping[Labels, tuple[str, ...]] = MappingProxyType(
    {"hard": ("labels", "presence"), "filtered": (), "soft": ("presence",)}
)


# What only says how a stage is to go about it: it is told at the start of a job and is no part of a fingerprint.
_SYNTHESIS_OPERATION = {"device", "images_per_caption", "shards_per_job"}
_LLM_OPERATION = {"batch_size", "cache", "concurrency", "device", "key_variable", "retries", "timeout", "url"}


@dataclass(frozen=True)
class Unit:
    """One directory of results. ``settings`` is all that its stage is told, besides its input files.

    ``pieces`` names the shards or Parquet parts that it consists of; they follow from the configuration. An ``open``
    unit is one to which pieces may be added: its fingerprint does not tell how many there are, nor does it depend
    on those keys of its captions that leave each of them as it is.
    """

    stage: str
    name: str
    settings: dict[str, Any] = field(hash=False)
    upstream: tuple[Unit, ...] = ()
    pieces: tuple[str, ...] = field(default=(), compare=False)
    open: bool = False

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

    def files(self, name: str) -> list[str]:
        """The names of its pieces' files: ``shard-00000.tar`` for the name ``shard-{}.tar``."""
        return [name.format(piece) for piece in self.pieces]


class Layout:
    """All units of a configuration."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.root = Path(config.results)
        self._resolved: dict[str, tuple[Method, Layout]] = {}

    def directory(self, unit: Unit) -> Path:
        """``results/<stage>/<run>``."""
        return self.root / unit.stage / unit.run

    def shard(self, unit: Unit, piece: str) -> tuple[Path, Path]:
        """The archive of one shard of a unit of synthesis, and its manifest."""
        folder = self.directory(unit)
        return folder / f"shard-{piece}.tar", folder / f"shard-{piece}.json"

    def _data_seed(self, seed: int) -> int:
        return seed if self.config.redraw_per_seed else self.config.seeds[0]

    def _labels(self) -> dict[str, str]:
        return {"labels": self.config.benchmark.labels, "labels_identity": label_identity(self.config.benchmark.labels)}

    def _benchmark_settings(self, split: str) -> dict[str, Any]:
        """The benchmark as far as ``split`` depends on it: the sizes of other splits do not matter."""
        others = {f"{name}_images" for name in ("train", "val", "test") if name != split}
        return self.config.benchmark.model_dump(mode="json", exclude=others)

    def captions(self, seed: int) -> Unit:
        """The captions of a seed. Sources that are not in use are no part of them."""
        config, seed = self.config, self._data_seed(seed)
        captions = config.captions
        unused = {name for name in ("llm", "corpus") if name not in captions.used}
        settings = {**captions.model_dump(mode="json", exclude=unused), **self._labels(), "seed": seed}
        settings["tokenizer_identity"] = tokenizer_identity(captions.tokenizer)
        identities: dict[str, str] = {}
        if captions.template.pairs is not None:
            identities |= file_identities("captions.template.pairs", (captions.template.pairs,))
        if "llm" in captions.used:
            settings["llm"] = {k: v for k, v in settings["llm"].items() if k not in _LLM_OPERATION}
            identities["llm"] = llm_identity(captions.llm)
        if "corpus" in captions.used:
            corpus = captions.corpus
            identities |= file_identities("captions.corpus.files", corpus.files)
            identities |= file_identities("captions.corpus.evaluation_ids", corpus.evaluation_ids)
        return Unit("captions", f"{config.benchmark.name}-s{seed}", {**settings, "identities": identities})

    def captions_operation(self) -> dict[str, Any]:
        """How the language model of the captions is to be asked; no part of the captions."""
        used = "llm" in self.config.captions.used
        return self.config.captions.llm.model_dump(mode="json", include=_LLM_OPERATION - {"device"}) if used else {}

    def synthesis(self, seed: int) -> Unit:
        """The synthetic images of a seed. How many there are, and the device they are drawn on, is no part of them."""
        config, seed = self.config, self._data_seed(seed)
        settings = config.synthesis.model_dump(mode="json", exclude=_SYNTHESIS_OPERATION)
        settings["model_identity"] = model_identity(config.synthesis.model)
        if config.synthesis.lora is not None:
            settings["lora_identity"] = model_identity(config.synthesis.lora)
        settings["seed"] = seed
        name = f"{config.benchmark.name}-s{seed}"
        return Unit("synthesis", name, settings, (self.captions(seed),), self.shards(), open=True)

    def shards(self) -> tuple[str, ...]:
        """Names of the shards of one seed: enough for every caption's replicas. Follow from the config alone."""
        config = self.config
        found = shards(config.captions.total, config.synthesis.images_per_caption, config.synthesis.shard_size)
        return tuple(shard.name for shard in found)

    def verification(self, seed: int) -> Unit:
        """The scores of a seed's synthetic images for every class, by the CLIP that verifies; a part per shard."""
        config, seed = self.config, self._data_seed(seed)
        evaluated = (config.features.backbone, config.features.pretrained)
        chosen = (config.verification.backbone, config.verification.pretrained)
        backbone, pretrained = evaluated if chosen[0] is None else chosen
        identity = model_identity(backbone)
        settings = {
            **config.verification.model_dump(mode="json", exclude={"device"}),
            "backbone": backbone,
            "pretrained": pretrained,
            "model_identity": identity,
            "same_as_evaluated": (identity, pretrained) == (model_identity(evaluated[0]), evaluated[1]),
            **self._labels(),
        }
        name = f"{config.benchmark.name}-s{seed}"
        return Unit("verification", name, settings, (self.synthesis(seed),), self.shards(), open=True)

    def parts(self, source: str) -> tuple[str, ...]:
        """Names of the Parquet parts of one features unit: one per shard, else by ``features.part_size``."""
        config = self.config
        if source == "synthetic":
            return self.shards()
        benchmark = config.benchmark
        rows = {
            "captions": config.captions.total,
            "train": benchmark.train_images,
            "val": benchmark.val_images,
            "test": benchmark.test_images,
        }
        return tuple(f"{part:05d}" for part in range(-(-rows[source] // config.features.part_size)))

    def _feature_settings(self) -> dict[str, Any]:
        settings = self.config.features.model_dump(mode="json", exclude={"device"})
        settings["model_identity"] = model_identity(self.config.features.backbone)
        return settings

    def features(self, source: str, seed: int) -> Unit:
        """Features of ``source``: ``synthetic`` or ``captions`` (of a seed), ``train``, ``val`` or ``test``."""
        config, settings = self.config, self._feature_settings()
        if source in ("synthetic", "captions"):
            seed = self._data_seed(seed)
            above = self.synthesis(seed) if source == "synthetic" else self.captions(seed)
            name = f"{config.benchmark.name}-{source}-s{seed}"
            settings |= {"source": source}
            return Unit("features", name, settings, (above,), self.parts(source), open=source == "synthetic")
        settings |= {"source": source, "benchmark": self._benchmark_settings(source), **self._labels()}
        return Unit("features", f"{config.benchmark.name}-{source}", settings, pieces=self.parts(source))

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
            **layout._labels(),
            "features": layout._feature_settings(),
            **{section: getattr(config, section).model_dump(mode="json") for section in sections},
        }
        labels = spec.labels(config.training.labels)
        if "training" in settings:
            for key in ("models_per_job", *_UNUSED[labels]):
                del settings["training"][key]
        name = f"{config.benchmark.name}-{method}"
        if not spec.data:
            return Unit("training", name, settings)
        settings["seed"] = seed
        if spec.real:
            settings["real"] = config.real.model_dump(mode="json")
        above = [layout.training(member, seed) for member in spec.members]
        above += [layout.features(source, seed) for source in spec.data]
        if labels != "hard":
            above.append(layout.verification(seed))
        return Unit("training", f"{name}-s{seed}", settings, tuple(above))

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
        settings = {"benchmark": layout._benchmark_settings("test")}
        return Unit("evaluation", model.name, settings, (model, layout.features("test", seed)))


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
