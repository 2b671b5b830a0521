"""The section of the benchmark: which images a recogniser is measured on, and by which protocol."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from t2ipal.settings.base import Fraction, Strict

# Images of the embedded benchmark, which are rendered: there may be as many as one likes.
RENDERED = {"train": 1600, "val": 1000, "test": 2000}


class BenchmarkSettings(Strict):
    """What is recognised, on which images it is measured, and how they count."""

    name: Literal["openmoji", "voc2007", "coco2014", "coco2017", "nuswide", "own"] = Field(
        "openmoji",
        description="Benchmark: openmoji (embedded, needs no download), voc2007, coco2014, coco2017, nuswide, own.",
    )
    labels: str = Field("voc2007", description="Label set: name of a shipped one, or path of a YAML file.")
    path: str | None = Field(
        None, description="Directory of the images, used in place and only read; none: they are downloaded."
    )
    annotations: str | None = Field(
        None, description="Labels of `own` images: CSV, JSON, JSON lines, Parquet or COCO's JSON; none: only predict."
    )
    downloads: str = Field("data", min_length=1, description="Directory that receives what is downloaded.")
    mirrors: tuple[str, ...] = Field(
        (), description="Addresses asked for a download before the official one; its file name is appended."
    )
    difficult: Literal["negative", "ignored"] = Field(
        "negative", description="How VOC's difficult objects count: negative (TaI-DPT) or ignored (DualCoOp)."
    )
    unlabelled: Literal["in", "out"] = Field(
        "in", description="COCO and NUS-WIDE images without any label: in (TaI-DPT) or out (DualCoOp)."
    )
    missing: Fraction = Field(
        0.0, description="Share of images that may be missing or unreadable; what is left out is in the protocol id."
    )
    test_images: int | None = Field(
        None, ge=20, description="Test images; none: all (openmoji: 2000). Needed where there is only a part of them."
    )
    train_images: int | None = Field(
        None,
        ge=20,
        description="Real training images, for oracle, few-shot and partial-label rows; none: all (openmoji: 1600).",
    )
    val_images: int | None = Field(
        None,
        ge=20,
        description="Validation images of openmoji, for the pack's gates and for development; none: 1000.",
    )

    @model_validator(mode="after")
    def _has_its_data(self) -> BenchmarkSettings:
        if self.name in ("own", "nuswide") and self.path is None:
            where = "the folder of your images" if self.name == "own" else "its directory (docs/benchmarks.md)"
            raise ValueError(f"benchmark.path is missing: benchmark '{self.name}' needs {where}")
        if self.annotations is not None and self.name != "own":
            raise ValueError(f"benchmark.annotations is for benchmark 'own'; '{self.name}' brings its labels")
        return self

    def images(self, split: str) -> int | None:
        """How many images of ``train``, ``val`` or ``test`` are asked for; None for all that there are."""
        asked: int | None = getattr(self, f"{split}_images")
        return RENDERED[split] if asked is None and self.name == "openmoji" else asked
