"""A finished run of two seeds, made by hand at the places that the layout names; and a model hub on the loopback."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from t2ipal import benchmarks
from t2ipal.config import Config, parse
from t2ipal.evaluation import scores
from t2ipal.experiments import Entry, experiments
from t2ipal.features import store
from t2ipal.io import file_sha256, write_json
from t2ipal.labels import LabelSet
from t2ipal.layout import Layout

# Seconds for what takes a few at the most, on a machine that has much else to do.
WAIT = 300
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


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Numbers that a test draws from the global generators are the same whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """Waits until a condition holds."""

    def wait(condition: Callable[[], object]) -> None:
        end = time.monotonic() + WAIT
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.02)

    return wait


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
def write_scores() -> Callable[..., Path]:
    """Writes ``scores.parquet`` of images image-0, image-1, ..."""

    def write(
        path: Path,
        targets: Any,
        values: Any,
        names: Sequence[str] = ("cat", "dog"),
        keys: Sequence[str] | None = None,
    ) -> Path:
        given = [f"image-{row}" for row in range(len(targets))] if keys is None else list(keys)
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"labels": list(names), "protocol": "p"}
        scores.write(path, given, np.asarray(targets), np.asarray(values, np.float32), metadata)
        return path

    return write


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


class Hub:
    """Answers as huggingface.co does: files of models, large ones elsewhere; lists of them; reasons for refusals.

    ``models`` has the directory of each id. ``gated`` are the ids whose terms were not accepted, ``failing`` the
    ends of paths that are answered with 500, ``cut`` those whose files break off in the middle.
    """

    COMMIT = "0123456789abcdef0123456789abcdef01234567"

    def __init__(self) -> None:
        self.models: dict[str, Path] = {}
        self.gated: set[str] = set()
        self.failing: tuple[str, ...] = ()
        self.cut: tuple[str, ...] = ()
        self.requests: list[tuple[str, str]] = []
        self.closed = False
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub._answer(self)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *arguments: Any) -> None:
                """Nothing: the test's output is for the test."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.base = f"http://127.0.0.1:{self.server.server_port}"

    def fetched(self, model: str) -> set[str]:
        """The files of a model that were asked for with GET, whether or not they exist."""
        found = (path.partition("/resolve/") for method, path in self.requests if method == "GET")
        return {file.partition("/")[2] for name, _, file in found if name == f"/{model}" and file}

    def close(self) -> None:
        """From now on nobody answers."""
        self.server.server_close()
        self.closed = True

    def run(self, script: str, cache: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Python code in a new process for which this is the hub and ``cache`` what was downloaded before."""
        if self.closed:  # the client asks as often as it does, but without its pauses, 25 seconds in all
            script = f"import time\ntime.sleep = lambda seconds: None\n{script}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        # Both spellings: of a `no_proxy` that is set outside, the other one would not be read.
        kept |= dict.fromkeys(("no_proxy", "NO_PROXY"), "*")
        kept |= {"HF_ENDPOINT": self.base, "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1"}
        # Seconds: this hub is a thread of a busy process, and its client's own 10 are for a hub that is no answer.
        kept |= dict.fromkeys(("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"), "120")
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env={**kept, **environment}, timeout=1200)
        assert done.returncode == 0, done.stderr
        return done

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        self.requests.append((handler.command, path))
        parts = path.strip("/").split("/")
        if path.endswith(self.failing) and self.failing:
            _reply(handler, 500, {})
        elif parts[0] == "large":
            found = next(file for root in self.models.values() for file in root.rglob("*") if _tag(file) == parts[1])
            _reply(handler, 200, {}, found.read_bytes(), cut=path.endswith(self.cut) and bool(self.cut))
        elif len(parts) > 4 and parts[2] == "resolve":
            self._file(handler, "/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        elif parts[:2] == ["api", "models"] and len(parts) >= 4:
            self._listing(handler, "/".join(parts[2:4]), parts[4:])
        else:
            _reply(handler, 404, {})

    def _refused(self, handler: BaseHTTPRequestHandler, model: str, revision: str) -> bool:
        if model in self.gated:
            _reply(handler, 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model is restricted."})
        elif model not in self.models:
            _reply(handler, 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Invalid username or password."})
        elif revision not in ("main", self.COMMIT):
            _reply(handler, 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        else:
            return False
        return True

    def _file(self, handler: BaseHTTPRequestHandler, model: str, revision: str, name: str) -> None:
        if self._refused(handler, model, revision):
            return
        path = self.models[model] / name
        if not path.is_file():
            _reply(handler, 404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
            return
        headers = {"X-Repo-Commit": self.COMMIT, "ETag": f'"{_tag(path)}"'}
        if path.suffix in (".safetensors", ".bin"):
            linked = {"X-Linked-Size": str(path.stat().st_size), "X-Linked-ETag": f'"{_tag(path)}"'}
            # Elsewhere: at another name of this machine, so that a client asks here for the commit and the size.
            elsewhere = f"http://localhost:{self.server.server_port}/large/{_tag(path)}/{name}"
            _reply(handler, 302, {**headers, **linked, "Location": elsewhere})
        else:
            _reply(handler, 200, headers, path.read_bytes())

    def _listing(self, handler: BaseHTTPRequestHandler, model: str, rest: list[str]) -> None:
        kind, revision = (*rest, "main")[:2] if rest else ("revision", "main")
        if self._refused(handler, model, revision):
            return
        root = self.models[model]
        files = sorted(path for path in root.rglob("*") if path.is_file())
        names = [path.relative_to(root).as_posix() for path in files]
        document: Any = {"id": model, "sha": self.COMMIT, "siblings": [{"rfilename": name} for name in names]}
        if kind == "tree":
            sizes = {name: (path.stat().st_size, _tag(path)) for name, path in zip(names, files, strict=True)}
            document = [{"type": "file", "path": n, "size": size, "oid": oid} for n, (size, oid) in sizes.items()]
        _reply(handler, 200, {"Content-Type": "application/json"}, json.dumps(document).encode())


def _tag(path: Path) -> str:
    return hashlib.sha256(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}".encode()).hexdigest()[:40]


def _reply(
    handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes = b"", cut: bool = False
) -> None:
    handler.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(body)), "Connection": "close"}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.close_connection = True
    if handler.command == "GET":
        handler.wfile.write(body[: len(body) // 2] if cut else body)


@pytest.fixture
def loopback_hub() -> Iterator[Hub]:
    """A model hub without models on a port of this machine."""
    hub = Hub()
    thread = threading.Thread(target=hub.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield hub
    hub.server.shutdown()
    hub.server.server_close()
    thread.join()
