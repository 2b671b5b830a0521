"""A benchmark's splits, as units of work depend on them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from t2ipal.acquisition.catalogue import item
from t2ipal.benchmarks import FileBenchmark, load
from t2ipal.identity import label_identity
from t2ipal.settings import BenchmarkSettings
from t2ipal.units import Unit

# Of a benchmark of files: where they lie and how they count.
_FILE_KEYS = {"path", "downloads", "annotations", "difficult", "unlabelled"}


def label_settings(given: BenchmarkSettings) -> dict[str, str]:
    """The label set, and what changes with its content."""
    return {"labels": given.labels, "labels_identity": label_identity(given.labels)}


def split_settings(given: BenchmarkSettings, split: str) -> dict[str, Any]:
    """The benchmark as far as ``split`` depends on it: the sizes of other splits do not matter."""
    found = {"name": given.name, "labels": given.labels, f"{split}_images": given.images(split)}
    if isinstance(load(given), FileBenchmark):
        found |= given.model_dump(mode="json", include=_FILE_KEYS)
    return found


@cache
def split_index(given: BenchmarkSettings, split: str) -> Unit | None:
    """As ``Layout.index``; once, as files are read for it and all tables and studies ask for the same few.

    Raises:
        UserError: see there.
    """
    benchmark = load(given)
    if not isinstance(benchmark, FileBenchmark):
        return None
    settings: dict[str, Any] = {"split": split, "benchmark": split_settings(given, split), **label_settings(given)}
    settings["images"] = benchmark.count(split)
    needs: tuple[str, ...] = ()
    if given.path is None:
        items = [item(name) for name in benchmark.downloads[split]]
        settings["identities"] = {found.name: found.identity for found in items}
        needs = tuple(str(found.manifest(Path(given.downloads))) for found in items)
    else:
        settings["identities"] = benchmark.identities(split)
    operation = {"missing": given.missing}
    return Unit("index", f"{given.name}-{split}", settings, operation=operation, needs=needs)
