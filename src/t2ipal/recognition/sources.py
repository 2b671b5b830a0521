"""What a user calls his images -> one image after the other, with a name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from t2ipal.errors import UserError
from t2ipal.images import SUFFIXES, Source, files_in

One = str | Path | bytes | Image.Image | NDArray[Any]
# Paths of images and of folders with images, what Pillow or numpy hold, or any of these one after the other.
Images = One | Iterable[One]


@dataclass(frozen=True)
class Named:
    """An image that is to be looked at, and what it is called in the results."""

    name: str
    source: Source


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"cannot read folder '{error.filename}' ({error.strerror}); mend its permissions")


def _in_folder(folder: Path) -> Iterator[Named]:
    found = files_in(folder, _refuse)
    if not found:
        raise UserError(f"folder '{folder}' has no image ({', '.join(sorted(SUFFIXES))})")
    return (Named(str(folder / file), folder / file) for file in found)


def _of(given: Any, number: int) -> Iterator[Named]:
    """The image, or those in the folder, that ``given`` is; ``number`` counts from 0."""
    if isinstance(given, str | Path):
        path = Path(given)
        return _in_folder(path) if path.is_dir() else iter([Named(str(given), path)])
    if isinstance(given, Image.Image | np.ndarray | bytes):
        name = getattr(given, "filename", "") or f"image {number}"
        return iter([Named(str(name), given)])
    kind = type(given).__name__
    raise UserError(f"image {number} is of type {kind}; give paths, folders, images of Pillow or arrays of numpy")


def named(images: Images) -> Iterator[Named]:
    """The images one after the other, of which none is opened; folders are looked through when it is their turn.

    An image without file name is called ``image N``, N being its place among what was given, from 0 on. An array of
    four axes is so many images.

    Raises:
        UserError: a folder has no image or cannot be read, or something is no image at all.
    """
    many = images.ndim == 4 if isinstance(images, np.ndarray) else not isinstance(images, str | Path | bytes)
    if isinstance(images, Iterable) and many:
        for number, given in enumerate(images):
            yield from _of(given, number)
    else:
        yield from _of(images, 0)
