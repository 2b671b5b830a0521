"""PASCAL VOC 2007: 20 classes from the objects in the XML of each image.

A class is present where it has an object that is not marked as difficult. Where all its objects are difficult, it is
absent (``benchmark.difficult: negative``: TaI-DPT, DualCoOp) or unknown (``ignored``: the challenge's own evaluation).
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree

from t2ipal.benchmarks.base import FileBenchmark, Record, class_names
from t2ipal.benchmarks.documents import read_lines, read_text
from t2ipal.errors import UserError

_LISTS = {"train": "trainval", "test": "test"}


class Voc2007Benchmark(FileBenchmark):
    """VOC 2007: trainval as training images, test as test images."""

    attribution = (
        "PASCAL VOC 2007 by M. Everingham et al. (host.robots.ox.ac.uk/pascal/VOC): photographs from Flickr under the "
        "terms of their owners."
    )
    folder = "VOCdevkit"
    official: ClassVar = {"train": (5_011, 5_011), "test": (4_952, 4_952)}
    downloads: ClassVar = {"train": ("voc2007-trainval",), "test": ("voc2007-test",)}

    @property
    def root(self) -> Path:
        """The directory VOC2007: the one that is configured, in it, or in its VOCdevkit."""
        given = super().root
        places = (given / "VOC2007", given, given / "VOCdevkit" / "VOC2007")
        return next((place for place in places if (place / "ImageSets").is_dir()), places[0])

    def names(self) -> tuple[str, ...]:
        """The 20 classes in the order of the alphabet, which is the official one."""
        return class_names("voc2007")

    def sources(self, split: str) -> list[Path]:
        """The list of the split's images."""
        self.check_split(split)
        return [self.root / "ImageSets" / "Main" / f"{_LISTS[split]}.txt"]

    def rules(self, split: str) -> list[str]:
        """How difficult objects count."""
        return [f"difficult-{self.settings.difficult}"]

    def records(self, split: str) -> list[Record]:
        """The images in the order of the list, whether or not their files are there.

        Raises:
            UserError: the list or an XML file is missing or damaged, or has an unknown class.
        """
        (path,) = self.sources(split)
        keys = [line.split()[0] for line in read_lines(path)]
        if len(set(keys)) < len(keys):
            raise UserError(f"{path} lists image '{next(k for k in keys if keys.count(k) > 1)}' twice; get it anew")
        names, root = self.names(), self.root
        return [self._record(key, root / "Annotations", names) for key in keys]

    def _record(self, key: str, annotations: Path, names: tuple[str, ...]) -> Record:
        if not key.isalnum():
            raise UserError(f"{annotations.parent / 'ImageSets'} lists '{key}', which names no image; get it anew")
        path = annotations / f"{key}.xml"
        objects = difficult_objects(path)
        for name in objects:
            if name not in names:
                raise UserError(f"{path} has an object of class '{name}', which VOC 2007 does not have; get it anew")
        present = tuple(name for name in names if objects.get(name) is False)
        doubtful = tuple(name for name in names if objects.get(name) is True)
        return Record(key, f"JPEGImages/{key}.jpg", present, doubtful if self.settings.difficult == "ignored" else ())


def difficult_objects(path: Path) -> dict[str, bool]:
    """The classes of an image's objects; whether all objects of the class are difficult.

    Raises:
        UserError: the file is missing or not such XML. Document types are refused: with them come entities, which can
            stand for other files, or for more text than memory holds.
    """
    text = read_text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise UserError(f"annotation file {path} declares a document type or entity, which VOC never does; get it anew")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise UserError(f"annotation file {path} is damaged: it is no XML ({error}); get it anew") from None
    if root.tag != "annotation":
        raise UserError(f"annotation file {path} has <{root.tag}> in place of <annotation>; get it anew")
    found: dict[str, bool] = {}
    for element in root.findall("object"):
        name, difficult = ((element.findtext(tag) or "").strip() for tag in ("name", "difficult"))
        if not name or difficult not in ("", "0", "1"):
            raise UserError(f"annotation file {path} has an object without a proper name or difficult; get it anew")
        found[name] = found.get(name, True) and difficult == "1"
    return found
