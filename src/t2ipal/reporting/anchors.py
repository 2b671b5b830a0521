"""What others have published on the same benchmarks: numbers to see ours beside, and never in one table with them."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from importlib.resources import files
from typing import Annotated

import yaml
from pydantic import Field

from t2ipal.settings.base import Strict


class Anchor(Strict):
    """One published number: ``mAP`` in percent; ``input`` in pixels and ``images`` of the test, None where not told."""

    benchmark: str
    method: str
    backbone: str
    input: int | None
    mAP: Annotated[float, Field(gt=0, lt=100)]  # noqa: N815
    images: str | None
    notes: str
    source: str


@cache
def _all() -> tuple[Anchor, ...]:
    text = files("t2ipal.reporting").joinpath("anchors.yaml").read_text(encoding="utf-8")
    return tuple(Anchor.model_validate(entry) for entry in yaml.safe_load(text))


def anchors(benchmarks: Collection[str]) -> list[Anchor]:
    """The published numbers on these benchmarks, in the order of the file."""
    return [anchor for anchor in _all() if anchor.benchmark in benchmarks]
