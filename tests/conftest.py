"""A finished run of two seeds, made by hand at the places that the layout names."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from t2ipal import benchmarks
from t2ipal.config import Config, parse
from t2ipal.experiments import Entry, experiments
from t2ipal.features import store
from t2ipal.io import file_sha256, write_json
from t2ipal.labels import LabelSet
from t2ipal.layout import Layout

SEEDS = (3, 5)
PROTOCOL = "openmoji-v1/test-20/resize96"
ROWS, COLUMNS, SIZE = 2, 3, 4


def png(colour: tuple[int, int, int]) -> bytes:
    """A 16x16 image of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    """An uncompressed tar of these members, whatever their names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@dataclass
class Run:
    """A configuration and the writers of what its stages would have left."""

    config: Config

    @property
    def layout(self) -> Layout:
        return Layout(self.config)

    def metrics_path(self, method: str, seed: int) -> Path:
        return self.layout.directory(self.layout.evaluation(method, seed)) / "metrics.json"

    def write_metrics(self, method: str, seed: int, /, **changes: Any) -> None:
        """The metrics of a row of the table of `eval_all`."""
        step = self.config.methods.index(method)
        self.write_entry(Entry(method, seed, self.layout), 0.4 + 0.05 * step, **changes)

    def write_entry(self, entry: Entry, average: float, /, **changes: Any) -> None:
        """The metrics of any entry; with a seed of its own, its mAP is a hundredth more for each seed."""
        unit, spec = entry.unit, entry.layout.of(entry.method)[0]
        document = {
            "benchmark": "openmoji",
            "method": entry.method,
            "backbone": entry.layout.config.features.backbone,
            "seed": entry.seed if spec.data else None,
            "protocol": PROTOCOL,
            "fingerprint": unit.fingerprint,
            "metrics": {"mAP": average + 0.01 * entry.seed * bool(spec.data), "CF1_top3": 0.3},
            "per_class_AP": {"cat": 0.25, "dog": 0.5, "person": None},
        }
        write_json(entry.layout.directory(unit) / "metrics.json", {**document, **changes})

    def write_all_metrics(self, experiment: str = "summary") -> None:
        """The metrics of all entries of an experiment, a twentieth of mAP between the methods."""
        entries = experiments(self.config)[experiment].entries
        methods = list(dict.fromkeys(entry.method for entry in entries))
        for entry in entries:
            self.write_entry(entry, 0.4 + 0.05 * methods.index(entry.method))

    def shard_path(self) -> Path:
        unit = self.layout.synthesis(SEEDS[0])
        return self.layout.directory(unit) / f"shard-{unit.pieces[0]}.tar"

    @staticmethod
    def sample(key: str, caption: str, labels: Any, **more: Any) -> list[tuple[str, bytes]]:
        """The members of one WebDataset sample."""
        record = json.dumps({"labels": labels, **more}).encode()
        return [(f"{key}.png", png((200, 30, 30))), (f"{key}.txt", caption.encode()), (f"{key}.json", record)]

    def write_shard(self, *samples: list[tuple[str, bytes]]) -> Path:
        write_tar(self.shard_path(), [member for members in samples for member in members])
        return self.shard_path()

    def model_path(self) -> Path:
        return self.layout.directory(self.layout.training("t2i-pal", SEEDS[0]))

    def features_path(self) -> Path:
        return self.layout.directory(self.layout.features("test", SEEDS[0])) / "part-00000.parquet"

    def write_model(self) -> None:
        from safetensors.numpy import save_file

        model, names = self.model_path(), LabelSet.load("voc2007").names
        model.mkdir(parents=True)
        rng = np.random.default_rng(0)
        embeddings = rng.normal(size=(len(names), SIZE)).astype(np.float32)
        weights = model / "model.safetensors"
        save_file({"global_embeddings": embeddings, "local_embeddings": embeddings}, weights)
        head = {
            "kind": "prompts",
            "labels": list(names),
            "prompt_names": list(names),
            "scores": {"tau": 4.0, "tau_s": 40.0, "w_g": 1.0, "w_l": 1.0, "alpha": 0.0, "normalise": False},
        }
        description = {"format": 2, "labels": list(names), "head": head, "weights_sha256": file_sha256(weights)}
        write_json(model / "model.json", description)

    def write_features(self) -> None:
        split = benchmarks.load(self.config.benchmark).split("test")
        rng, count = np.random.default_rng(1), len(split.keys)
        local = rng.normal(size=(count, ROWS * COLUMNS, SIZE))
        rows = store.Rows(
            split.keys,
            split.labels,
            split.unknown,
            local[:, 0],
            local,
            np.full(count, ROWS * COLUMNS, dtype=np.int16),
        )
        store.write(self.features_path(), [rows], {"grid": [ROWS, COLUMNS], "source": "test"})


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """Build a run in a directory of its own; keyword arguments are config keys."""

    def make(**changes: Any) -> Run:
        values = {
            "results": str(tmp_path / "results"),
            "seeds": list(SEEDS),
            "benchmark": {"test_images": 20},
            "captions": {"total": 10},
            "synthesis": {"model": "hub/model"},
            "features": {"backbone": "RN50"},
            **changes,
        }
        return Run(parse(values))

    return make


@pytest.fixture
def run(make_run: Callable[..., Run]) -> Run:
    """The run of all methods, with its metrics."""
    made = make_run()
    made.write_all_metrics()
    return made


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of so many KiB."""
    mounted: list[Path] = []

    def mount(kibibytes: int) -> Path:
        disk = tmp_path / f"disk{len(mounted)}"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(disk)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("this machine lets nobody mount a small tmpfs")
        mounted.append(disk)
        return disk

    yield mount
    for disk in mounted:
        subprocess.run(["umount", "-l", str(disk)], check=True)
