"""Benchmarks: labelled images with splits and protocols, behind one registry."""

from __future__ import annotations

from importlib import import_module

from t2ipal.benchmarks.base import Benchmark, FileBenchmark, ImageSplit, Record
from t2ipal.settings import BenchmarkSettings

# Module and class of every benchmark; imported when it is asked for.
_REGISTRY = {
    "openmoji": ("openmoji", "OpenMojiBenchmark"),
    "voc2007": ("voc2007", "Voc2007Benchmark"),
    "coco2014": ("coco", "Coco2014Benchmark"),
    "coco2017": ("coco", "Coco2017Benchmark"),
    "nuswide": ("nuswide", "NusWideBenchmark"),
    "own": ("own", "OwnBenchmark"),
}

__all__ = ["Benchmark", "FileBenchmark", "ImageSplit", "Record", "attribution", "load"]


def _class(benchmark: str) -> type[Benchmark]:
    module, name = _REGISTRY[benchmark]
    found: type[Benchmark] = getattr(import_module(f"t2ipal.benchmarks.{module}"), name)
    return found


def load(settings: BenchmarkSettings) -> Benchmark:
    """The benchmark that the settings name."""
    return _class(settings.name)(settings)


def attribution(benchmark: str) -> str | None:
    """Who made the images of a benchmark and under which licence, told without its data; None if it is unknown."""
    found = getattr(_class(benchmark), "attribution", None) if benchmark in _REGISTRY else None
    return found if isinstance(found, str) else None
