"""What every benchmark offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from PIL import Image

from t2ipal.errors import UserError
from t2ipal.identity import file_identities
from t2ipal.images import decode
from t2ipal.labels import LabelSet
from t2ipal.labels.files import read
from t2ipal.settings import BenchmarkSettings


@dataclass(frozen=True)
class ImageSplit:
    """Images by index, with what is known of their labels, and the protocol id that numbers on them carry."""

    keys: list[str]
    labels: list[list[str]]
    unknown: list[list[str]]
    image: Callable[[int], Image.Image]
    protocol: str


@dataclass(frozen=True)
class Record:
    """One image of a benchmark of files: ``file`` is relative to the benchmark's root, with forward slashes.

    What is neither in ``labels`` nor in ``unknown`` is known to be absent.
    """

    key: str
    file: str
    labels: tuple[str, ...]
    unknown: tuple[str, ...] = ()


@cache
def class_names(label_set: str) -> tuple[str, ...]:
    """The classes of a shipped label set in their order, which is that of the benchmark."""
    return tuple(read(label_set).classes)


class Benchmark(ABC):
    """A labelled image collection."""

    def __init__(self, settings: BenchmarkSettings) -> None:
        self.settings = settings

    @property
    @abstractmethod
    def attribution(self) -> str:
        """Who made the images and under which licence."""

    @abstractmethod
    def split(self, name: str) -> ImageSplit:
        """The ``train``, ``val`` or ``test`` images."""

    @abstractmethod
    def count(self, split: str) -> int:
        """Images of a split as the configuration has it; told without the data where that is possible."""


class FileBenchmark(Benchmark):
    """A collection of image files with annotations.

    A subclass says where things lie and what they mean; ``t2ipal.benchmarks.index`` checks that they are there.
    """

    # Where its data lies below the directory of downloads.
    folder: ClassVar[str]
    # Images of a split with those without any label, and without them.
    official: ClassVar[Mapping[str, tuple[int, int]]] = MappingProxyType({})
    # What has to be downloaded for a split (t2ipal.acquisition.catalogue).
    downloads: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})

    @property
    def root(self) -> Path:
        """The directory that files of records are relative to."""
        settings = self.settings
        return Path(settings.path) if settings.path is not None else Path(settings.downloads, self.folder)

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Its classes in the official order."""

    @abstractmethod
    def records(self, split: str) -> list[Record]:
        """The images of a split in the official order, whether or not their files are there.

        Raises:
            UserError: an annotation is missing, damaged or contradicts the label set.
        """

    @abstractmethod
    def sources(self, split: str) -> list[Path]:
        """The files, few and small, that tell one state of the split's annotations from another."""

    def identities(self, split: str) -> dict[str, str]:
        """For each of ``sources`` a text that changes with it.

        Raises:
            UserError: one is not there.
        """
        try:
            return file_identities("benchmark.path", tuple(map(str, self.sources(split))))
        except UserError as error:
            raise UserError(f"{error} (docs/benchmarks.md says what belongs where)") from None

    @abstractmethod
    def rules(self, split: str) -> list[str]:
        """How doubtful labels and images count, as parts of the protocol id: ``difficult-negative``."""

    def check_split(self, split: str) -> None:
        """Check that it has such a split.

        Raises:
            UserError: it has not.
        """
        if split not in self.official:
            raise UserError(f"benchmark '{self.settings.name}' has no images for '{split}'")

    def check_labels(self) -> LabelSet:
        """The label set, which must name the benchmark's classes; their order does not matter.

        Raises:
            UserError: names a class that is missing or too much.
        """
        found = LabelSet.load(self.settings.labels)
        for extra in sorted(set(found.names) ^ set(self.names())):
            problem = "lacks" if extra not in found.names else "has"
            raise UserError(
                f"config key 'benchmark.labels': label set '{self.settings.labels}' {problem} class '{extra}', "
                f"unlike benchmark '{self.settings.name}'; name the label set of the benchmark"
            )
        return found

    def count(self, split: str) -> int:
        """What is asked for, else the official number under the rule for unlabelled images.

        Raises:
            UserError: there is no such split.
        """
        self.check_split(split)
        asked = self.settings.images(split)
        if asked is not None:
            return asked
        with_unlabelled, without = self.official[split]
        return with_unlabelled if self.settings.unlabelled == "in" else without

    def protocol(self, split: str) -> str:
        """Benchmark, split, number of images and rules: ``voc2007/test-4952/difficult-negative``."""
        return "/".join([self.settings.name, f"{split}-{self.count(split)}", *self.rules(split)])

    def split(self, name: str) -> ImageSplit:
        """The images of a split; an ``UnreadableImageError`` is raised where one is looked at.

        Raises:
            UserError: as ``records``.
        """
        records, root = self.records(name), self.root
        return ImageSplit(
            keys=[record.key for record in records],
            labels=[list(record.labels) for record in records],
            unknown=[list(record.unknown) for record in records],
            image=lambda index: decode(root / records[index].file),
            protocol=self.protocol(name),
        )
