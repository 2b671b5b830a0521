"""COCO: 80 classes, present where an image has any annotation of them, crowds included.

Both editions share their images: COCO 2014 is evaluated on the whole of val2014, COCO 2017 on val2017.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple

from t2ipal.benchmarks.base import FileBenchmark, Record, class_names
from t2ipal.benchmarks.documents import read_json
from t2ipal.errors import UserError

# Keys of images and annotations that nobody asks for; together they are nearly all of the file.
UNUSED = frozenset({
    "area", "bbox", "coco_url", "date_captured", "flickr_url", "height", "iscrowd", "license", "segmentation", "width",
})  # fmt: skip

# A split in the names of files.
_PARTS = {"train": "train", "test": "val"}

Id = int | str


class Instances(NamedTuple):
    """What an instances file says: its images by ascending id, its categories, and the categories of each image."""

    files: dict[Id, str]
    categories: dict[Id, str]
    present: dict[Id, set[str]]


def instances(document: Any, path: Path) -> Instances:
    """What COCO's JSON says, read from ``path``; categories may have any ids in any order.

    Raises:
        UserError: a list or a key is missing, an image is there twice, or an annotation is of an image or a category
            that is not there.
    """
    try:
        return _instances(document)
    except (TypeError, KeyError, ValueError) as error:
        reason = f"an entry lacks key {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path} is no valid file of COCO instances: {reason}; get it anew or mend it") from None


def _instances(document: Any) -> Instances:
    files = _unique(_entries(document, "images", "id", "file_name"), "image")
    categories = _unique(_entries(document, "categories", "id", "name"), "category")
    if len(set(files.values())) < len(files):
        raise ValueError("two images have the same file_name")
    present: dict[Id, set[str]] = {identity: set() for identity in files}
    for image, category in _entries(document, "annotations", "image_id", "category_id"):
        if image not in present:
            raise ValueError(f"an annotation names image {image}, which it does not list")
        if category not in categories:
            raise ValueError(f"an annotation of image {image} names category {category}, which it does not list")
        present[image].add(categories[category])
    ascending = sorted(files, key=lambda identity: (isinstance(identity, str), identity))
    return Instances({identity: files[identity] for identity in ascending}, categories, present)


def _entries(document: Any, key: str, *fields: str) -> Iterable[tuple[Any, ...]]:
    """Two or more values of every object in the list ``key``."""
    entries = document.get(key) if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f"it has no list '{key}'")
    if not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"an entry of '{key}' is no object")
    return map(itemgetter(*fields), entries)


def _unique(entries: Iterable[tuple[Any, ...]], what: str) -> dict[Id, str]:
    found: dict[Id, str] = {}
    for identity, name in entries:
        if not isinstance(identity, Id) or not isinstance(name, str) or not name:
            raise ValueError(f"{what} {identity} has no proper id and name")
        if identity in found:
            raise ValueError(f"{what} id {identity} is there twice")
        found[identity] = name
    return found


class _CocoBenchmark(FileBenchmark):
    """What both editions have in common."""

    attribution = (
        "COCO by the COCO Consortium (cocodataset.org): annotations CC BY 4.0, photographs from Flickr under the terms "
        "of their owners."
    )
    folder = "coco"
    _year: ClassVar[int]

    def names(self) -> tuple[str, ...]:
        """The 80 classes in the order of their ids."""
        return class_names("coco")

    def sources(self, split: str) -> list[Path]:
        """The JSON of the split's instances."""
        return [self.root / "annotations" / f"instances_{self._edition(split)}.json"]

    def rules(self, split: str) -> list[str]:
        """Whether images without any annotation count."""
        return [f"unlabelled-{self.settings.unlabelled}"]

    def records(self, split: str) -> list[Record]:
        """The images by ascending id, whether or not their files are there.

        Raises:
            UserError: the annotations are missing or damaged, or have other classes.
        """
        (path,) = self.sources(split)
        found = instances(read_json(path, UNUSED), path)
        order = {name: index for index, name in enumerate(self.names())}
        for name in sorted(set(found.categories.values()) ^ set(order)):
            problem = "lacks" if name in order else "has"
            raise UserError(f"{path} {problem} category '{name}', unlike COCO; get it anew, or use benchmark 'own'")
        directory = self._images(split)
        return [
            Record(_stem(file, path), f"{directory}/{file}", tuple(sorted(present, key=order.__getitem__)))
            for file, present in ((file, found.present[identity]) for identity, file in found.files.items())
            if present or self.settings.unlabelled == "in"
        ]

    def _edition(self, split: str) -> str:
        self.check_split(split)
        return f"{_PARTS[split]}{self._year}"

    def _images(self, split: str) -> str:
        """The images' directory: beside ``annotations``, or in ``images`` as many tools want it."""
        edition = self._edition(split)
        return f"images/{edition}" if (self.root / "images" / edition).is_dir() else edition


def _stem(file: str, path: Path) -> str:
    if PurePosixPath(file).name != file:
        raise UserError(f"{path} names image '{file}', which is no plain file name; get it anew")
    return PurePosixPath(file).stem


class Coco2014Benchmark(_CocoBenchmark):
    """COCO 2014: train2014 and val2014."""

    _year = 2014
    official: ClassVar = {"train": (82_783, 82_081), "test": (40_504, 40_137)}
    downloads: ClassVar = {
        "train": ("coco2014-annotations", "coco2014-train"),
        "test": ("coco2014-annotations", "coco2014-val"),
    }


class Coco2017Benchmark(_CocoBenchmark):
    """COCO 2017: train2017 and val2017."""

    _year = 2017
    official: ClassVar = {"train": (118_287, 117_266), "test": (5_000, 4_952)}
    downloads: ClassVar = {
        "train": ("coco2017-annotations", "coco2017-train"),
        "test": ("coco2017-annotations", "coco2017-val"),
    }
