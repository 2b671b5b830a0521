"""What the models of one job share: the backbone, the features of each source, and unfinished trainings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2ipal.errors import UserError
from t2ipal.features import store
from t2ipal.io import canonical_json, digest
from t2ipal.labels import LabelSet
from t2ipal.learning.checkpoints import Checkpoint
from t2ipal.learning.data import Samples, few, split
from t2ipal.learning.models import MODEL_FILE, WEIGHTS_FILE
from t2ipal.learning.presence import filtered, presence_of, weighted
from t2ipal.learning.prompts import PromptLearner
from t2ipal.learning.tower import TextTower
from t2ipal.learning.training import Divided, Part, TunedAdapters
from t2ipal.methods import Role
from t2ipal.settings import PromptSettings, RealSettings, TrainingSettings
from t2ipal.units import VERSIONS
from t2ipal.verification.store import read as read_scores

if TYPE_CHECKING:
    from t2ipal.features.backbone import Backbone


@dataclass(frozen=True)
class FeatureSet:
    """The Parquet parts of one unit of features, or of verification: ``directory/part-00000.parquet`` and so on."""

    directory: Path
    pieces: tuple[str, ...]

    @property
    def files(self) -> list[Path]:
        """The parts, in order."""
        return [self.directory / f"part-{piece}.parquet" for piece in self.pieces]


@dataclass(frozen=True)
class Job:
    """One model to make: its unit's settings, the ``model.json`` to write, and what it is made from."""

    settings: dict[str, Any]
    output: Path
    features: Mapping[str, FeatureSet]
    members: tuple[Path, ...] = ()
    verification: FeatureSet | None = None

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Job:
        """The job of a description as the workflow passes it."""
        sets = {name: FeatureSet(Path(found), tuple(parts)) for name, (found, parts) in described["features"].items()}
        members = tuple(map(Path, described["members"]))
        verification = None
        if "verification" in described:
            found, parts = described["verification"]
            verification = FeatureSet(Path(found), tuple(parts))
        return cls(dict(described["settings"]), Path(described["output"]), sets, members, verification)

    @property
    def inputs(self) -> list[Path]:
        """All files that it is made from."""
        sets = [*self.features.values(), *([self.verification] if self.verification else [])]
        parts = [path for found in sets for path in found.files]
        return parts + [member / name for member in self.members for name in (MODEL_FILE, WEIGHTS_FILE)]

    def key(self, part: Part) -> str:
        """A text that changes with what one part of the training depends on: version, settings, state of the inputs."""
        stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in self.inputs]
        chosen = {name: self.settings.get(name) for name in _PROMPT_SECTIONS}
        if part == "adapter":
            adapter = self.settings["adapter"]
            chosen["adapter"] = {name: value for name, value in adapter.items() if name not in _CHOSEN_LATER}
        return canonical_json([VERSIONS["training"], chosen, stats])


# What the tuning of prompts depends on, whatever follows it.
_PROMPT_SECTIONS = (
    "learner",
    "labels_identity",
    "features",
    "data",
    "real",
    "seed",
    "prompts",
    "scores",
    "dual",
    "loss",
    "training",
)
# Prototypes and keys are tuned before these are looked at.
_CHOSEN_LATER = ("alphas", "local_weights")


class Classes:
    """The classes of a label set in the text tower of a backbone (``t2ipal.learning.training.Classes``)."""

    def __init__(self, labels: LabelSet, backbone: Backbone, prompts: PromptSettings) -> None:
        self.labels = labels.names
        self.prompt_names = tuple(labels.prompt_name(name) for name in labels.names)
        self._backbone, self._prompts = backbone, prompts

    def default_embeddings(self) -> Tensor:
        """Unit embeddings [C, D] of the template, or the mean of the 80 ImageNet templates' (Radford et al., 2021)."""
        if not self._prompts.ensemble:
            return self._backbone.encode_text([self._prompts.template.format(name) for name in self.prompt_names])[0]
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        means = [
            self._backbone.encode_text([template(name) for template in OPENAI_IMAGENET_TEMPLATES])[0].mean(dim=0)
            for name in self.prompt_names
        ]
        return torch.nn.functional.normalize(torch.stack(means), dim=-1)

    def learner(self, rng: np.random.Generator) -> PromptLearner:
        """New contexts, drawn from ``rng``."""
        return PromptLearner(self._tower, self._backbone.tokenizer, self.prompt_names, self._prompts, rng)

    @cached_property
    def _tower(self) -> TextTower:
        return TextTower.of(self._backbone.model)


@dataclass
class Workroom:
    """Loads each backbone and each source of features once."""

    device: str
    _backbones: dict[str, Backbone] = field(default_factory=dict)
    _features: dict[FeatureSet, store.Features] = field(default_factory=dict)
    _presences: dict[tuple[FeatureSet, FeatureSet], NDArray[np.float64]] = field(default_factory=dict)
    _adapters: dict[str, TunedAdapters] = field(default_factory=dict)

    def classes(self, settings: dict[str, Any]) -> Classes:
        """The classes of a training unit's settings.

        Raises:
            UserError: the backbone or the label set is missing or damaged.
        """
        labels = LabelSet.load(settings["labels"])
        return Classes(labels, self._backbone(settings["features"]), PromptSettings.model_validate(settings["prompts"]))

    def _backbone(self, settings: dict[str, Any]) -> Backbone:
        from t2ipal.features import backbone

        key = canonical_json(settings)
        if key not in self._backbones:
            self._backbones[key] = backbone.load(settings, self.device)
        return self._backbones[key]

    def samples(self, job: Job, source: str) -> Samples:
        """All samples of one source.

        Raises:
            UserError: the features are missing, damaged, empty, or of another backbone.
        """
        found = job.features[source]
        if found not in self._features:
            self._features[found] = store.read(found.files)
        features = self._features[found]
        wanted = job.settings["features"]
        if features.meta["identity"] != wanted["model_identity"]:
            raise UserError(
                f"{found.files[0]} holds features of another backbone than '{wanted['backbone']}'; "
                "run the features stage again"
            )
        return Samples.of(features, LabelSet.load(job.settings["labels"]).names, torch.device(self.device))

    def _borne_out(self, job: Job, samples: Samples) -> Samples:
        """All synthetic samples, with filtered or soft labels if the job has a verification of them."""
        if job.verification is None:
            return samples
        training = TrainingSettings.model_validate(job.settings["training"])
        found = self._presence(job.verification, job)
        if training.labels == "filtered":
            return filtered(samples, found, training.presence)
        return weighted(samples, found)

    def _presence(self, verification: FeatureSet, job: Job) -> NDArray[np.float64]:
        """Presence [N, C] of all synthetic samples."""
        of = verification, job.features["synthetic"]
        if of not in self._presences:
            keys, classes = self._features[job.features["synthetic"]].keys, LabelSet.load(job.settings["labels"]).names
            self._presences[of] = presence_of(read_scores(verification.files), keys, classes)
        return self._presences[of]

    def divided(self, job: Job) -> Divided:
        """The job's samples by their roles: those of role ``both`` are split, held-out ones are chosen on.

        Synthetic samples are filtered before they are split: nothing is chosen on what is not learned from.

        Raises:
            UserError: see ``samples``; there are too few to hold some out; or a verification is missing, damaged or
                of other images, or bears out none.
        """
        seed, held_out = job.settings["seed"], job.settings.get("training", {}).get("held_out")
        learn, choose = [], []
        for source, role in cast("dict[str, Role]", job.settings["data"]).items():
            samples = self.samples(job, source)
            if source == "train" and "real" in job.settings:
                real = RealSettings.model_validate(job.settings["real"])
                samples = few(samples, real.shots, real.known, seed)
            if source == "synthetic":
                samples = self._borne_out(job, samples)
            if role == "learn":
                learn.append(samples)
                continue
            training, held = split(samples, held_out, seed)
            choose.append(held)
            if role == "both":
                learn.append(training)
        return Divided(Samples.join(learn), Samples.join(choose) if choose else None)

    def bench(self, job: Job) -> Workbench:
        """Where the parts of the job's training are kept."""
        return Workbench(job, self._adapters)


@dataclass(frozen=True)
class Workbench:
    """One job's place: unfinished parts on disk, and tuned adapters that another model of the process shares.

    Models that differ in ``adapter.alphas`` alone, as in a study, tune their adapters once.
    """

    job: Job
    shared: dict[str, TunedAdapters]

    def checkpoint(self, part: Part) -> Checkpoint:
        """Of a part of the training; equal parts of other models have the same."""
        key = self.job.key(part)
        folder = self.job.output.parent.parent / "checkpoints"
        return Checkpoint(folder / f"{part}-{digest(key, 16)}.safetensors", key)

    def adapters(self, tune: Callable[[Checkpoint], TunedAdapters]) -> TunedAdapters:
        """What ``tune`` gives, or gave to a model before."""
        key = self.job.key("adapter")
        if key not in self.shared:
            self.shared[key] = tune(self.checkpoint("adapter"))
        return self.shared[key]
