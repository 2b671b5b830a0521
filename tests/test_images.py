from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from t2ipal import images
from t2ipal.images import UnreadableImageError, decode

PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "shared/data/VOCdevkit/VOC2007/JPEGImages"


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _noise(width: int = 300, height: int = 200) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _gradient() -> Image.Image:
    """Smooth, so that JPEG keeps it, and different at each corner."""
    rows, columns = np.mgrid[0:48, 0:64]
    return Image.fromarray(np.stack([rows * 5, columns * 3, 200 - rows], axis=-1).astype(np.uint8))


def _refused(source: Path | bytes) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        decode(source)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_pixels_are_those_that_were_saved(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(_saved(_noise(), kind))
    found = decode(path)
    assert found.mode == "RGB"
    assert np.array_equal(found, _noise())
    assert np.array_equal(decode(path.read_bytes()), _noise())


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_photograph_is_what_pillow_reads(kind: str) -> None:
    content = _saved(_gradient(), kind)
    with Image.open(io.BytesIO(content)) as expected:
        assert np.array_equal(decode(content), expected.convert("RGB"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = np.asarray(_gradient(), dtype=np.int16)
    # How the camera holds the picture, by the table of the EXIF standard: which sides row 0 and column 0 are.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    found = decode(_saved(Image.fromarray(stored.astype(np.uint8)), kind, exif=exif, **options))
    assert np.abs(np.asarray(found, dtype=np.int16) - upright).max() <= (8 if kind == "JPEG" else 0)


def test_cmyk_is_converted() -> None:
    found = decode(_saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    assert found.mode == "RGB"
    red, green, blue = found.getpixel((8, 8))  # type: ignore[misc]
    assert red > 240 and green < 15 and blue < 15


def test_ycck_is_converted() -> None:
    """By Adobe's transform 2 a JPEG holds Y, Cb and Cr of cyan, magenta and yellow, and inverted black."""
    cyan, magenta, yellow = 0.0, 255.0, 255.0
    luma = 0.299 * cyan + 0.587 * magenta + 0.114 * yellow
    stored = (luma, 128 + 0.564 * (yellow - luma), 128 + 0.713 * (cyan - luma))
    written = tuple(round(255 - value) for value in stored)  # Pillow inverts what it writes
    content = _saved(Image.new("CMYK", (16, 16), (*written, 0)), "JPEG", quality=100)
    start = content.index(b"Adobe")
    assert content[start + 11] == 0
    red, green, blue = decode(content[: start + 11] + b"\x02" + content[start + 12 :]).getpixel((8, 8))  # type: ignore[misc]
    assert red > 250 and green < 5 and blue < 5


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_sixteen_bits_of_grey_are_scaled_not_cut_off(kind: str) -> None:
    values = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    options = {"irreversible": False} if kind == "JPEG2000" else {}
    found = np.asarray(decode(_saved(Image.fromarray(values), kind, **options)), dtype=np.float64)
    assert np.abs(found - values[..., None] / 257).max() <= 0.5


def test_numbers_without_a_known_range_are_refused() -> None:
    for values in (np.full((4, 4), 0.5, np.float32), np.full((4, 4), -3, np.int32), np.full((4, 4), 70_000, np.int32)):
        assert "range is unknown" in _refused(_saved(Image.fromarray(values), "TIFF"))


def test_what_is_transparent_is_laid_over_white() -> None:
    rgba = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    rgba.putpixel((1, 0), (200, 0, 0, 0))
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([10, 20, 30, 200, 0, 0])
    keyed = Image.new("RGB", (2, 1), (200, 0, 0))
    white = (255, 255, 255)
    for content, *expected in (
        (_saved(rgba, "PNG"), (200, 0, 0), white),
        (_saved(Image.new("LA", (2, 1), (0, 128)), "PNG"), (127, 127, 127), (127, 127, 127)),
        (_saved(palette, "PNG", transparency=0), white, white),
        (_saved(palette, "GIF", transparency=0), white, white),
        (_saved(palette, "PNG"), (10, 20, 30), (10, 20, 30)),
        (_saved(keyed, "PNG", transparency=(200, 0, 0)), white, white),
    ):
        found = decode(content)
        assert [found.getpixel((0, 0)), found.getpixel((1, 0))] == expected


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_the_first_frame_of_several_is_read(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    content = _saved(frames[0], kind, save_all=True, append_images=frames[1:])
    red, green, blue = decode(content).getpixel((8, 8))  # type: ignore[misc]
    assert red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1)])
def test_small_and_narrow_images_are_read(size: tuple[int, int]) -> None:
    assert decode(_saved(Image.new("RGB", size, "red"), "PNG")).size == size


def test_a_strip_is_refused() -> None:
    assert _refused(_saved(Image.new("L", (1, 201)), "PNG")) == "1 x 201 pixels are narrower than 1 to 200"


def _white(side: int) -> bytes:
    return _saved(Image.new("1", (side, side), 1), "PNG")


def test_a_hundred_megapixels_are_read_without_a_warning() -> None:
    content = _white(10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(content).size == (10_000, 10_000)


def test_a_decompression_bomb_is_refused_by_its_size() -> None:
    assert _refused(_white(20_000)) == "it has 400 million pixels, more than the 179 that are read"


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("filled", [False, True])
def test_a_jpeg_that_is_cut_off_is_never_half_grey(progressive: bool, filled: bool) -> None:
    content = _saved(_noise(), "JPEG", progressive=progressive, exif=_with_thumbnail())
    assert decode(content).size == (300, 200)
    assert decode(content + b"\xff\xda what a phone appends").size == (300, 200)
    for kept in (len(content) // 3, len(content) // 2, len(content) - 2):
        cut = content[:kept] + (bytes(len(content) - kept) if filled else b"")
        assert "truncated" in _refused(cut)


def _with_thumbnail() -> bytes:
    """EXIF data that hold a whole JPEG, whose end is not that of the image."""
    thumbnail = _saved(Image.new("RGB", (16, 16)), "JPEG")
    entries = struct.pack("<HHHLLHHLLL", 2, 0x0201, 4, 1, 44, 0x0202, 4, 1, len(thumbnail), 0)
    return b"Exif\0\0II*\0" + struct.pack("<LHL", 14, 0, 14) + entries + thumbnail


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000"])
def test_what_is_cut_off_is_refused(kind: str) -> None:
    content = _saved(_noise(), kind)
    assert _refused(content[: len(content) // 2])
    assert _refused(content[:8])


def test_a_wrong_byte_in_a_png_is_found() -> None:
    content = bytearray(_saved(_noise(), "PNG"))
    content[len(content) // 2] ^= 255
    assert "broken" in _refused(bytes(content))


def test_a_jpeg_that_is_cut_off_is_refused_whatever_pillow_is_told_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    content = _saved(_noise(), "JPEG")
    assert _refused(content[: len(content) // 2])


def test_files_that_are_none_have_plain_reasons(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("This is no image.\n")
    (tmp_path / "phone.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    (tmp_path / "script.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    os.mkfifo(tmp_path / "pipe.jpg")
    expected = {
        "empty.jpg": "the file is empty",
        "text.jpg": "it is no image, or one that is damaged at its start",
        "phone.jpg": "HEIC is not supported; convert it to JPEG",
        "script.eps": "it is no image, or one that is damaged at its start",
        "pipe.jpg": "it is no regular file",
        "missing.jpg": "there is no such file",
        "": "it is a directory",
        "text.jpg/below.jpg": "Not a directory",
    }
    assert {name: _refused(tmp_path / name) for name in expected} == expected


def test_a_file_without_permission_is_named_so(tmp_path: Path) -> None:
    path = tmp_path / "locked.png"
    path.write_bytes(_saved(_noise(), "PNG"))
    path.chmod(0)
    code = (
        "import os, sys; from pathlib import Path; from t2ipal.images import decode, UnreadableImageError\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "try: decode(Path(sys.argv[1]))\nexcept UnreadableImageError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout == "there is no permission to read it\n"


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff"])
def test_damaged_exif_data_leave_the_image_as_it_is(exif: bytes) -> None:
    assert decode(_saved(_gradient(), "JPEG", exif=exif)).size == (64, 48)


def test_a_broken_colour_profile_is_ignored() -> None:
    broken = _saved(_noise(), "PNG", icc_profile=b"no profile")
    assert np.array_equal(decode(broken), _noise())


def test_memory_that_runs_out_is_no_fault_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(images, "_picture", full)
    with pytest.raises(MemoryError):
        decode(_saved(_noise(), "PNG"))


def test_real_photographs_are_read_whole() -> None:
    files = sorted(PHOTOGRAPHS.glob("*.jpg"))[:40]
    if not files:
        pytest.skip(f"{PHOTOGRAPHS} is not there")
    for file in files:
        with Image.open(file) as expected:
            assert np.array_equal(decode(file), expected.convert("RGB"))
