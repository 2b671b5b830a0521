"""Where everything lies: the units of work of a run, their settings, fingerprints and directories.

A unit is one directory ``results/<stage>/<name>-<fingerprint>``. Its fingerprint hashes the stage's name and
version, the settings that the stage depends on, and the fingerprints upstream; so a changed setting gives new
directories for that stage and those below, and touches nothing above. This module is the only place that
knows paths; the Snakefile asks it, and nothing here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from t2ipal.config import Config, Method
from t2ipal.identity import label_identity, model_identity
from t2ipal.io import digest

# A stage's version changes when its code changes what it would write for the same settings.
VERSIONS = {"captions": 1, "synthesis": 1, "features": 1, "training": 1, "evaluation": 1}

# Which data a method learns from; None for those that learn nothing (and have no seed).
LEARNS_FROM: dict[Method, str | None] = {
    "zero-shot": None,
    "zero-shot-local": None,
    "tai-dpt": "captions",
    "t2i-pal-prompts": "synthetic",
    "t2i-pal": "synthetic",
    "oracle": "train",
}
WITH_ADAPTER: frozenset[Method] = frozenset({"t2i-pal", "oracle"})


@dataclass(frozen=True)
class Unit:
    """One directory of results. ``settings`` is all that its stage is told, besides its input files."""

    stage: str
    name: str
    settings: dict[str, Any] = field(hash=False)
    upstream: tuple[Unit, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits."""
        above = [unit.fingerprint for unit in self.upstream]
        return digest([self.stage, VERSIONS[self.stage], self.settings, above])

    @property
    def run(self) -> str:
        """The directory's own name."""
        return f"{self.name}-{self.fingerprint}"


class Layout:
    """All units of a configuration."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.root = Path(config.results)

    def directory(self, unit: Unit) -> Path:
        """``results/<stage>/<run>``."""
        return self.root / unit.stage / unit.run

    def _data_seed(self, seed: int) -> int:
        return seed if self.config.redraw_per_seed else self.config.seeds[0]

    def _labels(self) -> dict[str, str]:
        return {"labels": self.config.benchmark.labels, "labels_identity": label_identity(self.config.benchmark.labels)}

    def _benchmark_settings(self, split: str) -> dict[str, Any]:
        """The benchmark as far as ``split`` depends on it: the sizes of other splits do not matter."""
        others = {f"{name}_images" for name in ("train", "val", "test") if name != split}
        return self.config.benchmark.model_dump(mode="json", exclude=others)

    def captions(self, seed: int) -> Unit:
        """The captions of a seed."""
        config, seed = self.config, self._data_seed(seed)
        settings = {
            **config.captions.model_dump(mode="json"),
            **self._labels(),
            "seed": seed,
        }
        return Unit("captions", f"{config.benchmark.name}-s{seed}", settings)

    def synthesis(self, seed: int) -> Unit:
        """The synthetic images of a seed. The device they are drawn on is no part of them."""
        config, seed = self.config, self._data_seed(seed)
        settings = config.synthesis.model_dump(mode="json", exclude={"device"})
        settings["model_identity"] = model_identity(config.synthesis.model)
        settings["seed"] = seed
        return Unit("synthesis", f"{config.benchmark.name}-s{seed}", settings, (self.captions(seed),))

    def shards(self) -> int:
        """Shards of one seed: enough for every caption's replicas. Follows from the config alone."""
        config = self.config
        images = config.captions.total * config.synthesis.images_per_caption
        return -(-images // config.synthesis.shard_size)

    def parts(self, source: str) -> int:
        """Parquet parts of one features unit: one per shard, else by ``features.part_size``."""
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
        return -(-rows[source] // config.features.part_size)

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
            return Unit("features", name, {**settings, "source": source}, (above,))
        settings |= {"source": source, "benchmark": self._benchmark_settings(source), **self._labels()}
        return Unit("features", f"{config.benchmark.name}-{source}", settings)

    def training(self, method: Method, seed: int) -> Unit:
        """A model. Methods that learn nothing are the same for every seed and exist once."""
        config, source = self.config, LEARNS_FROM[method]
        settings: dict[str, Any] = {
            "method": method,
            **self._labels(),
            "features": self._feature_settings(),
            "prompts": config.prompts.model_dump(mode="json"),
            "scores": config.scores.model_dump(mode="json"),
        }
        name = f"{config.benchmark.name}-{method}"
        if source is None:
            return Unit("training", name, settings)
        settings |= {"seed": seed, "training": config.training.model_dump(mode="json")}
        if method in WITH_ADAPTER:
            settings["adapter"] = config.adapter.model_dump(mode="json")
        return Unit("training", f"{name}-s{seed}", settings, (self.features(source, seed),))

    def evaluation(self, method: Method, seed: int) -> Unit:
        """Scores and metrics of a model on the test images."""
        model = self.training(method, seed)
        settings = {"benchmark": self._benchmark_settings("test")}
        return Unit("evaluation", model.name, settings, (model, self.features("test", seed)))

    def units(self) -> list[Unit]:
        """Every unit that the configured table needs, upstream first, each once."""
        found: dict[tuple[str, str], Unit] = {}

        def visit(unit: Unit) -> None:
            for above in unit.upstream:
                visit(above)
            found.setdefault((unit.stage, unit.run), unit)

        for method in self.config.methods:
            for seed in self.config.seeds:
                visit(self.evaluation(method, seed))
        return list(found.values())
