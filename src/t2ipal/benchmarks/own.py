"""Images of one's own: a folder, and perhaps a file that says what they show (docs/benchmarks.md)."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NoReturn

from t2ipal.benchmarks.base import FileBenchmark, Record
from t2ipal.benchmarks.label_files import Entry, entries
from t2ipal.errors import UserError
from t2ipal.images import SUFFIXES, files_in
from t2ipal.labels import LabelSet


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"benchmark.path: cannot read folder '{error.filename}' ({error.strerror}); mend its permissions")


class OwnBenchmark(FileBenchmark):
    """Test images of any kind; without annotations every label is unknown, and they can only be recognised."""

    attribution = "Images of the user's own, under the terms of their owners."
    folder = "own"

    def names(self) -> tuple[str, ...]:
        """The classes of the label set, whatever they are."""
        return LabelSet.load(self.settings.labels).names

    def check_split(self, split: str) -> None:
        """There are test images only.

        Raises:
            UserError: another split is asked for.
        """
        if split != "test":
            raise UserError(
                f"benchmark 'own' has no {split} images: methods that learn from real images (oracle, few-shot, "
                "partial-label) are not possible with it; leave them out of 'methods'"
            )

    def count(self, split: str) -> int:
        """What is asked for, else the number of annotated images, else of all in the folder.

        Raises:
            UserError: it is not the test split, or the annotations cannot be read.
        """
        self.check_split(split)
        asked = self.settings.images(split)
        return asked if asked is not None else len(self._entries() or self._images())

    def sources(self, split: str) -> list[Path]:
        """The annotation file, if there is one."""
        self.check_split(split)
        return [] if self.settings.annotations is None else [Path(self.settings.annotations)]

    def rules(self, split: str) -> list[str]:
        """Nothing is doubtful about them."""
        return []

    def records(self, split: str) -> list[Record]:
        """The images in the order of the annotations, whether or not their files are there; else by name.

        Images that the annotations do not list are left out; their number is told on the standard error output.

        Raises:
            UserError: the annotations are damaged, list an image twice, or have a class that is not in the label set.
        """
        self.check_split(split)
        names, images, said = self.names(), self._images(), self._entries()
        if not said:
            return [Record(image, image, (), names) for image in images]
        files = self._files(said, images)
        left = len(set(images) - set(files))
        if left:
            print(f"{left:,} images in {self.root} are not in {self.settings.annotations}: left out", file=sys.stderr)
        return [self._record(file, entry, names) for file, entry in zip(files, said, strict=True)]

    def _entries(self) -> tuple[Entry, ...]:
        return () if self.settings.annotations is None else entries(Path(self.settings.annotations))

    def _images(self) -> list[str]:
        """The image files in the folder and in those below it, but for hidden ones, by name."""
        if not self.root.is_dir():
            raise UserError(f"benchmark.path: there is no folder '{self.root}'; mend the path")
        found = files_in(self.root, _refuse)
        if not found:
            raise UserError(f"benchmark.path: folder '{self.root}' has no image ({', '.join(sorted(SUFFIXES))})")
        return found

    def _files(self, said: Iterable[Entry], images: list[str]) -> list[str]:
        """The file of each entry: the one of that path, else the only other one of that name, else a missing one."""
        wanted = [self._relative(entry.image) for entry in said]
        others: dict[str, list[str]] = defaultdict(list)
        for image in sorted(set(images) - set(wanted)):
            others[PurePosixPath(image).name].append(image)
        there, found = set(images), dict[str, None]()
        for path in wanted:
            same = [path] if path in there else others[PurePosixPath(path).name]
            file = same[0] if same else path
            if len(same) > 1 or file in found:
                problem = f"'{path}', which may be {' or '.join(same)}" if len(same) > 1 else f"image '{file}' twice"
                raise UserError(f"{self.settings.annotations} lists {problem}; give one path for each image")
            if file.split("/")[0] == "..":
                raise UserError(f"{self.settings.annotations} lists '{path}', which is not in folder {self.root}")
            found[file] = None
        return list(found)

    def _relative(self, image: str) -> str:
        """The path of an image in the folder, or one that leads out of it."""
        path = image.replace("\\", "/")
        return Path(os.path.relpath(path, self.root) if os.path.isabs(path) else os.path.normpath(path)).as_posix()

    def _record(self, file: str, entry: Entry, names: tuple[str, ...]) -> Record:
        judged = entry.judged if entry.judged is not None else names
        for name in (*entry.labels, *entry.unknown, *(() if entry.spare else judged)):
            if name not in names:
                raise UserError(
                    f"{self.settings.annotations}: '{name}', said of image '{entry.image}', is no class of label set "
                    f"'{self.settings.labels}'; add it to the label set, or mend the name"
                )
        both = set(entry.labels) & set(entry.unknown)
        if both:
            raise UserError(
                f"{self.settings.annotations}: image '{entry.image}' has '{both.pop()}' as label and unknown"
            )
        unknown = {*entry.unknown, *(name for name in names if name not in judged)}
        return Record(file, file, tuple(n for n in names if n in entry.labels), tuple(n for n in names if n in unknown))
