"""Two ways from a folder of photographs to features of an open_clip model, each in a process (bench/features.py).

`python bench/extractors.py theirs|ours <options as JSON>` loads the model once, and then reads lines: a JSON list of
the folders of images and of the output. It answers each with the seconds, and the memory at the peak, in bytes.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any
from unittest.mock import patch

Run = Callable[[str, str], None]


@dataclass(frozen=True)
class Options:
    """What both sides share: open_clip's name of the model, its weights, and how it is run."""

    model: str
    weights: str
    batch: int
    workers: int
    threads: int
    device: str


class Side:
    """A process that waits for its turn."""

    def __init__(self, name: str, python: str, options: Options, folder: Path) -> None:
        self.name, self._folder, self._runs = name, folder, 0
        self._log = (folder / f"{name}.log").open("w+")
        self._process = subprocess.Popen(
            [python, __file__, name, json.dumps(asdict(options))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(options.threads)},
            start_new_session=True,
        )

    def __enter__(self) -> Side:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    def run(self, images: Path) -> tuple[Path, dict[str, float]]:
        """The folder of its output; and seconds, seconds of all its processes on a CPU, and bytes at the peak."""
        self._runs += 1
        before = cpu_seconds(self._process.pid)
        output = self._folder / f"{self.name}-{self._runs}"
        output.mkdir()
        assert self._process.stdin and self._process.stdout
        try:
            print(json.dumps([str(images), str(output)]), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._log.seek(0)
            raise SystemExit(f"'{self.name}' failed:\n{self._log.read()[-3000:]}")
        return output, {**json.loads(line), "cpu": cpu_seconds(self._process.pid) - before}


def cpu_seconds(session: int) -> float:
    """Of all processes of a session, and of their children that have ended."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[3]) == session:
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


class NoLogger:
    """Stands in for clip-retrieval's logger, a process of its own that would compete for the cores."""

    def __init__(self, **_: Any) -> None:
        pass

    def nothing(self, *_: Any) -> None:
        """What it does."""

    __call__ = start = end = nothing


def theirs(options: Options) -> Run:
    """clip-retrieval's worker, its model in evaluation mode."""
    from clip_retrieval.clip_inference import worker

    name = f"open_clip:{options.model}/{options.weights}"
    # What the worker will be given, too, as it is cached. It forgets evaluation mode, and warms up without.
    loading = import_module("all_clip.main")
    loading.load_clip_without_warmup(name, False, options.device, None)[0].eval()
    loading.load_clip(clip_model=name, use_jit=False, warmup_batch_size=options.batch, clip_cache_path=None)

    def run(images: str, output: str) -> None:
        with patch.object(worker, "LoggerWriter", NoLogger):
            worker.worker(
                tasks=[0],
                input_dataset=images,
                output_folder=output,
                output_partition_count=1,
                batch_size=options.batch,
                num_prepro_workers=options.workers,
                enable_text=False,
                clip_model=name,
                use_jit=False,
            )

    return run


def ours(options: Options) -> Run:
    """The extraction of the features stage, local features and all. On a GPU both sides compute in bfloat16."""
    from t2ipal.allocator import keep_freed
    from t2ipal.errors import UserError
    from t2ipal.features.backbone import load
    from t2ipal.features.extraction import Extraction, Item, Tolerance
    from t2ipal.settings import FeatureSettings

    keep_freed()  # as every command of t2ipal does
    precision = "bfloat16" if options.device == "cuda" else "float32"
    settings = FeatureSettings(backbone=options.model, pretrained=options.weights, precision=precision).model_dump()
    backbone = load(settings, options.device)
    # Of half precision, the first images are compared with single precision: once a part, and not part of the work.
    reference = load({**settings, "precision": "float32"}, options.device) if precision != "float32" else backbone
    tolerance = Tolerance(0, lambda records: UserError(str(records)))

    def run(images: str, output: str) -> None:
        files = sorted(Path(images).iterdir())
        items = (Item(path.name, path.name, [], [], path) for path in files)
        extraction = Extraction(backbone, options.batch, options.workers, tolerance, lambda: reference)
        extraction.write(items, len(files), "photographs", Path(output, "part.parquet"), {})

    return run


def forget_peak() -> None:
    """Let the largest resident size count from now on."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Largest resident size of this process, in bytes."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return next(1024 * int(words[1]) for words in lines if words[0] == "VmHWM:")


def main() -> None:
    """Be one side."""
    import torch

    logging.disable(logging.WARNING)
    options = Options(**json.loads(sys.argv[2]))
    torch.set_num_threads(options.threads)
    with redirect_stdout(sys.stderr):
        run = {"theirs": theirs, "ours": ours}[sys.argv[1]](options)
    for line in sys.stdin:
        forget_peak()
        start = time.monotonic()
        with redirect_stdout(sys.stderr):
            run(*json.loads(line))
        print(json.dumps({"seconds": time.monotonic() - start, "peak": peak()}), flush=True)


if __name__ == "__main__":
    main()
