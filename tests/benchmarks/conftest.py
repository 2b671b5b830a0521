"""Real pieces of the benchmarks, which lie beside the project and never in it."""

from __future__ import annotations

from pathlib import Path

import pytest

_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def _directory(name: str) -> Path:
    if not (_DATA / name).is_dir():
        pytest.skip(f"there are no real samples in {_DATA / name}")
    return _DATA / name


@pytest.fixture
def vocdevkit() -> Path:
    """200 test photographs of VOC 2007 in the official layout."""
    return _directory("VOCdevkit")


@pytest.fixture
def coco() -> Path:
    """Annotations of 80 images of train2017, and 79 of val2017 with their photographs."""
    return _directory("coco")
