"""NUS-WIDE: 81 concepts, one text file of zeros and ones for each of them and each split (docs/benchmarks.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import ClassVar

from t2ipal.benchmarks.base import FileBenchmark, Record, class_names
from t2ipal.benchmarks.documents import read_lines, read_text
from t2ipal.errors import UserError

# Where a copy may have them, the official place first.
_LISTS = ("ImageList", ".")
_LABELS = ("TrainTestLabels", "Groundtruth/TrainTestLabels")
_CONCEPTS = ("ConceptsList", ".")
# Names of an image that the list calls ``actor/0001_2124494179.jpg``; its number on Flickr is behind the underscore.
_PLACES: tuple[Callable[[PurePosixPath], str], ...] = (
    lambda image: f"Flickr/{image}",
    lambda image: f"images/{image}",
    lambda image: f"images/{image.name}",
    lambda image: f"images/{image.name.rpartition('_')[2]}",
)
# Images that are looked for in each place before the next is tried.
_TRIED = 200


class NusWideBenchmark(FileBenchmark):
    """NUS-WIDE in its official split."""

    attribution = (
        "NUS-WIDE by T.-S. Chua et al., National University of Singapore, under its agreement for research: "
        "photographs from Flickr under the terms of their owners."
    )
    folder = "nuswide"
    official: ClassVar = {"train": (161_789, 125_449), "test": (107_859, 83_898)}

    def names(self) -> tuple[str, ...]:
        """The 81 concepts in the order of the alphabet, which is the official one."""
        return class_names("nuswide")

    def sources(self, split: str) -> list[Path]:
        """The list of the split's images and the 81 files of their labels."""
        self.check_split(split)
        part = split.capitalize()
        labels = self._first(_LABELS, f"Labels_{self.names()[0]}_{part}.txt").parent
        images = self._first(_LISTS, f"{part}Imagelist.txt")
        return [images, *(labels / f"Labels_{name}_{part}.txt" for name in self.names())]

    def rules(self, split: str) -> list[str]:
        """Whether images without any label count."""
        return [f"unlabelled-{self.settings.unlabelled}"]

    def records(self, split: str) -> list[Record]:
        """The images in the order of the list, whether or not their files are there.

        Raises:
            UserError: a list is missing or damaged, or differs from the others in length or concepts.
        """
        listed, *label_files = self.sources(split)
        images = _images(listed)
        self._check_concepts()
        labels: list[list[str]] = [[] for _ in images]
        for name, path in zip(self.names(), label_files, strict=True):
            for row in _positives(path, len(images), listed):
                labels[row].append(name)
        place = self._place(images)
        return [
            Record(str(image.with_suffix("")), place(image), tuple(present))
            for image, present in zip(images, labels, strict=True)
            if present or self.settings.unlabelled == "in"
        ]

    def _first(self, places: Iterable[str], name: str) -> Path:
        """The file in the first place that has it, else in the official one."""
        found = [self.root / place / name for place in places]
        return next((path for path in found if path.is_file()), found[0])

    def _check_concepts(self) -> None:
        """Compare the list of concepts, where there is one; labels are found by name, so that its order is free."""
        path = self._first(_CONCEPTS, "Concepts81.txt")
        if path.is_file():
            for name in sorted(set(read_lines(path)) ^ set(self.names())):
                problem = "lacks" if name in self.names() else "has"
                raise UserError(f"{path} {problem} concept '{name}', unlike NUS-WIDE's 81 concepts; get it anew")

    def _place(self, images: list[PurePosixPath]) -> Callable[[PurePosixPath], str]:
        """How images are named here: as one of the first of the list is found, else officially."""
        for place in _PLACES:
            if any((self.root / place(image)).is_file() for image in islice(images, _TRIED)):
                return place
        return _PLACES[0]


def _images(path: Path) -> list[PurePosixPath]:
    """The listed images: ``actor\\0001_2124494179.jpg`` as a path."""
    images = [PurePosixPath(line.replace("\\", "/")) for line in read_lines(path)]
    seen: set[PurePosixPath] = set()
    for image in images:
        if image.is_absolute() or ".." in image.parts or image in seen:
            raise UserError(f"{path} lists '{image}' twice or outside its directory; get it anew")
        seen.add(image)
    return images


def _positives(path: Path, count: int, listed: Path) -> list[int]:
    """The rows of ones in a file of as many zeros and ones as ``listed`` has images."""
    values = read_text(path).split()
    if len(values) != count:
        raise UserError(
            f"{path} has {len(values):,} labels, but {listed} has {count:,} images; get both from the same source"
        )
    wrong = set(values) - {"0", "1"}
    if wrong:
        value = min(wrong, key=values.index)
        raise UserError(f"{path} has '{value}' as label {values.index(value) + 1}, which must be 0 or 1; get it anew")
    return [row for row, value in enumerate(values) if value == "1"]
