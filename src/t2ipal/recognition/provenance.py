"""What a model was made from and how it was measured, as the files of its run tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from t2ipal.io import read_json
from t2ipal.learning.models import MODEL_FILE
from t2ipal.units import Unit

METRICS_FILE = "metrics.json"


@dataclass(frozen=True)
class Evaluation:
    """One seed's ``metrics.json``, its directory, and the model's description."""

    seed: int | None
    metrics: dict[str, Any]
    directory: Path
    model: dict[str, Any]


@dataclass
class Provenance:
    """The run that a model's directory ``results/training/<run>`` lies in; elsewhere nothing is known."""

    model: Path
    description: dict[str, Any]
    captions: dict[str, Any] | None = None
    synthesis: dict[str, Any] | None = None
    images: int = 0
    evaluations: list[Evaluation] = field(default_factory=list)

    @classmethod
    def of(cls, model: Path, description: dict[str, Any]) -> Provenance:
        """Look for captions, images and measurements beside the model."""
        found = cls(model.resolve(), description)
        found._find_data()
        found.evaluations = sorted(found._evaluated(), key=lambda evaluation: evaluation.seed or 0)
        return found

    @property
    def method(self) -> str:
        """The row of the results table that it is."""
        return str(self.description.get("method", "unknown"))

    @property
    def seed(self) -> int | None:
        """What it was trained with; None if it learns nothing."""
        found: int | None = self.description.get("settings", {}).get("seed")
        return found

    @property
    def sources(self) -> dict[str, str]:
        """What it learned from or chose on: ``captions``, ``synthetic``, ``train``."""
        return dict(self.description.get("settings", {}).get("data", {}))

    @cached_property
    def root(self) -> Path:
        """The directory of the run's results."""
        return self.model.parent.parent

    @property
    def name(self) -> str:
        """The unit's name: benchmark, method and seed."""
        return self.model.name.rpartition("-")[0]

    @property
    def benchmark(self) -> str:
        """What it was made for; the model's name where that is not known."""
        name = self.name if self.seed is None else self.name.removesuffix(f"-s{self.seed}")
        return name.removesuffix(f"-{self.method}") or self.model.name

    def _find_data(self) -> None:
        """Those captions and images whose features a model of these settings learns from, by their fingerprints."""
        source = next((name for name in ("synthetic", "captions") if name in self.sources), None)
        if source is None:
            return
        found = [
            candidate
            for candidate in (self._images() if source == "synthetic" else self._captions())
            if (self.root / "features" / self._features(source, candidate[-1]).run).is_dir()
        ]
        if len(found) > 1:
            found = [one for one in found if self._trained(source, one[-1]).run == self.model.name] or found[:0]
        if not found:
            return
        *above, unit = found[0]
        if source == "captions":
            self.captions = self._manifest(unit)
            return
        self.captions, self.synthesis = self._manifest(above[0]), dict(unit.settings)
        self.images = sum(int(shard.get("count", 0)) for shard in self._shards(self.root / "synthesis" / unit.run))

    def _captions(self) -> Iterator[list[Unit]]:
        """The units of captions of the benchmark, those of the model's own seed first."""
        folders = (self.root / "captions").glob(f"{self.benchmark}-s*-*")
        for folder in sorted(
            folders, key=lambda path: (not path.name.startswith(f"{self.benchmark}-s{self.seed}-"), path)
        ):
            settings = _json(folder / "captions.json").get("settings", {})
            unit = Unit("captions", folder.name.rpartition("-")[0], settings)
            if unit.run == folder.name:
                yield [unit]

    def _images(self) -> Iterator[list[Unit]]:
        """The units of images with the captions that they are drawn for."""
        for (captions,) in self._captions():
            for folder in sorted((self.root / "synthesis").glob(f"{captions.name}-*")):
                settings: dict[str, Any] = next((shard.get("settings", {}) for shard in self._shards(folder)), {})
                unit = Unit("synthesis", captions.name, settings, (captions,), self._pieces(folder), True)
                if unit.run == folder.name:
                    yield [captions, unit]

    def _features(self, source: str, above: Unit) -> Unit:
        settings = {**self.description["features"], "source": source}
        name = f"{self.benchmark}-{source}-{above.name.rpartition('-')[2]}"
        return Unit("features", name, settings, (above,), above.pieces, source == "synthetic")

    def _trained(self, source: str, above: Unit) -> Unit:
        return Unit("training", self.name, self.description["settings"], (self._features(source, above),))

    def _manifest(self, captions: Unit) -> dict[str, Any]:
        return _json(self.root / "captions" / captions.run / "captions.json")

    @staticmethod
    def _pieces(folder: Path) -> tuple[str, ...]:
        return tuple(sorted(path.stem.removeprefix("shard-") for path in folder.glob("shard-*.json")))

    @staticmethod
    def _shards(folder: Path) -> Iterator[dict[str, Any]]:
        return map(_json, sorted(folder.glob("shard-*.json")))

    def _evaluated(self) -> Iterator[Evaluation]:
        """The measurements of the model and of those that differ from it by their seeds."""
        for model in self._siblings():
            name = model.name.rpartition("-")[0]
            for folder in sorted((self.root / "evaluation").glob(f"{name}-*")):
                metrics = _json(folder / METRICS_FILE)
                named = metrics.get("model")
                of_it = named == model.name if named else folder.name.rpartition("-")[0] == name and self._is_only(name)
                if of_it and metrics.get("metrics"):
                    yield Evaluation(metrics.get("seed"), metrics, folder, _json(model / MODEL_FILE))

    def _is_only(self, name: str) -> bool:
        """Older measurements do not name the model: they are its own where no other has its name."""
        folders = (self.root / "training").glob(f"{name}-*")
        return sum(folder.name.rpartition("-")[0] == name for folder in folders) == 1

    def _siblings(self) -> Iterator[Path]:
        if self.model.parent.name != "training":
            return
        for folder in sorted(self.model.parent.glob(f"{self.benchmark}-{self.method}*")):
            if folder == self.model:
                yield folder
                continue
            other = Provenance(folder, _json(folder / MODEL_FILE))
            if _without_seed(other.description.get("settings")) == _without_seed(self.description["settings"]):
                other._find_data()
                if other._recipe == self._recipe:
                    yield folder

    @property
    def _recipe(self) -> list[dict[str, Any]]:
        """How its data were made, but for the seed: settings of training alone do not tell."""
        return [_without_seed((self.captions or {}).get("settings")), _without_seed(self.synthesis)]


def _without_seed(settings: dict[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (settings or {}).items() if key != "seed"}


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one if there is none, as a card can do without."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
