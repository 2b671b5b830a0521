"""Image files of any kind -> upright RGB pictures."""

from __future__ import annotations

import io
import os
import re
import stat
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

# What Pillow reads by itself: others start programs (EPS), or hold no photographs.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF")
# The files of a folder that are taken for images.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_HEIC = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
# Longer sides over shorter ones beyond this: what a tower reads of such a strip is next to nothing, and to bring its
# shorter side to the tower's input takes gigabytes.
NARROWEST = 200
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# A marker, as it cannot stand in the coded data of a scan: there, FF is followed by 00 or by the number of a restart.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])", re.DOTALL)
_EOI = b"\xd9"


# A file, the content of one, or what a program has loaded.
Source = Path | bytes | Image.Image | NDArray[Any]


class UnreadableImageError(Exception):
    """An image that cannot be decoded; the message is the reason, without the file's name."""


def files_in(folder: Path, refuse: Callable[[OSError], None]) -> list[str]:
    """The image files (by their ``SUFFIXES``) in a folder and in those below it, but for hidden ones, sorted.

    Args:
        folder: it must be there.
        refuse: told of a folder that cannot be read, which else would be passed over.

    Returns:
        Their paths within the folder.
    """
    found: list[str] = []
    for directory, below, files in os.walk(folder, onerror=refuse):
        below[:] = [name for name in below if not name.startswith(".")]
        here = Path(directory).relative_to(folder)
        names = (name for name in files if not name.startswith("."))
        found += [(here / name).as_posix() for name in names if Path(name).suffix.lower() in SUFFIXES]
    return sorted(found)


def decode(source: Source) -> Image.Image:
    """An image as RGB picture, upright as its EXIF data say.

    Of an animated image it is the first frame. What is transparent is laid over white, 16 bits of grey become 8, and
    colour profiles are ignored, as they are in the training of CLIPs.

    Args:
        source: a file, its content, an image of Pillow, or an array of bytes: [H, W] of grey, or [H, W, 3] or
            [H, W, 4] of red, green, blue and perhaps opacity.

    Raises:
        UnreadableImageError: it is not there, no image, cut off, damaged, too narrow or too large, or of other shape.
    """
    if isinstance(source, np.ndarray):
        source = _of_array(source)
    if isinstance(source, Image.Image):
        return _loaded(source)
    content = source if isinstance(source, bytes) else _content(source)
    if not content:
        raise UnreadableImageError("the file is empty")
    # Pillow warns of what is decided here: of large images, of damaged EXIF data and of palettes with transparency.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(content), formats=_formats()) as image:
                return _picture(image, content)
        except (UnreadableImageError, MemoryError):
            raise
        except UnidentifiedImageError:
            raise UnreadableImageError(_unknown(content)) from None
        except Image.DecompressionBombError as error:
            pixels = re.search(r"\d+", str(error))
            size = f"{int(pixels[0]) / 1e6:,.0f} million pixels" if pixels else "too many pixels"
            raise UnreadableImageError(f"it has {size}, more than the {largest() / 1e6:,.0f} that are read") from None
        # Decoders of damaged images raise whatever they run into.
        except Exception as error:
            raise UnreadableImageError(str(error).strip() or type(error).__name__) from None


def largest() -> int:
    """The most pixels that an image may have: what Pillow takes for a decompression bomb, 179 million by default."""
    return 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else 0


@cache
def _formats() -> tuple[str, ...]:
    """Those of ``_FORMATS`` that this Pillow was built with; it fails on the name of another one."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _content(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise UnreadableImageError("it is a directory" if stat.S_ISDIR(mode) else "it is no regular file")
        return path.read_bytes()
    except FileNotFoundError:
        raise UnreadableImageError("there is no such file") from None
    except PermissionError:
        raise UnreadableImageError("there is no permission to read it") from None
    except OSError as error:
        raise UnreadableImageError(error.strerror or str(error)) from None


def _unknown(content: bytes) -> str:
    """Why a file is not known as an image."""
    if content[4:8] == b"ftyp" and content[8:12] in _HEIC:
        return "HEIC is not supported; convert it to JPEG"
    return "it is no image, or one that is damaged at its start"


def _of_array(values: NDArray[Any]) -> Image.Image:
    if values.dtype != np.uint8:
        raise UnreadableImageError(f"an array of {values.dtype} is no image; give bytes (uint8) from 0 to 255")
    fits = values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (1, 3, 4))
    if not fits or 0 in values.shape:
        raise UnreadableImageError(
            f"an array of shape {values.shape} is no image; give [height, width] or [height, width, 3 or 4]"
        )
    return Image.fromarray(values[..., 0] if values.shape[2:] == (1,) else values)


def _loaded(image: Image.Image) -> Image.Image:
    """As ``decode``, of what a program has opened with Pillow."""
    try:
        return _upright(image)
    except (UnreadableImageError, MemoryError):
        raise
    # Files are read as late as that, and a program may have closed one.
    except Exception as error:
        raise UnreadableImageError(str(error).strip() or type(error).__name__) from None


def _picture(image: Image.Image, content: bytes) -> Image.Image:
    _check_shape(image)
    image.load()
    if image.format in ("JPEG", "MPO") and not _is_whole(content):
        raise UnreadableImageError("image file is truncated")
    return _upright(image)


def _check_shape(image: Image.Image) -> None:
    short, long = sorted(image.size)
    if long > NARROWEST * short:
        width, height = image.size
        raise UnreadableImageError(f"{width} x {height} pixels are narrower than 1 to {NARROWEST}")


def _upright(image: Image.Image) -> Image.Image:
    _check_shape(image)
    orientation = _UPRIGHT.get(_orientation(image))
    picture = _on_white(_eight_bits(image) if image.mode[0] in "IF" else image)
    return picture if orientation is None else picture.transpose(orientation)


def _is_whole(content: bytes) -> bool:
    """Whether the first image of a JPEG comes to its end (ISO/IEC 10918-1, B.1.1).

    Pillow says so if bytes are missing, but not if there are others instead, as the zeros that a download which was
    broken off leaves in a file of full size; the rest of the image would be grey.
    """
    position = 2
    while marker := _MARKER.search(content, position):
        if marker[1] == _EOI:
            return True
        position = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2])
    return False


def _orientation(image: Image.Image) -> int:
    """As EXIF counts it, where 1 is upright; that of damaged EXIF data is 1."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        return int(value)
    except Exception:
        return 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits in 8: Pillow's own conversion cuts all values above 255 off."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise UnreadableImageError(f"it has pixels of kind {image.mode} whose range is unknown")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")
