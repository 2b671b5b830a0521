"""Images per second of the synthesis stage against the naive loop of diffusers, in one run, on one model.

Naive: one prompt at a time, ``.images[0].save()`` as PNG into a folder. Ours: ``draw_batches`` of the real generator
into a tar archive that is flushed to disk batch by batch. Both use all threads, in turns, over several rounds.

    python bench/synthesis.py                        # the embedded model on the CPU; fails below 1.3 times
    python bench/synthesis.py --gpu                  # Stable Diffusion 1.5 of random weights, 512 x 512, 20 steps
    python bench/synthesis.py --gpu --device cpu --shape tiny --size 64 --steps 2   # that code, without a GPU
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from drawing import WAYS, Tar, images, load, ours, synchronise
from random_models import random_model

ROOT = Path(__file__).resolve().parents[1]
EMBEDDED = f"local-dir:{ROOT / 'src/t2ipal/pack/models/text-to-image'}"
# Least ratio to the naive loop, least share of an unsaved batched pipe, least share of time that the GPU computes.
REQUIRED_CPU, REQUIRED_GPU, REQUIRED_UNSAVED, REQUIRED_BUSY = 1.3, 3.0, 0.9, 0.95


def arguments() -> argparse.Namespace:
    """The sizes; those of a GPU if asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gpu", action="store_true", help="the requirements and sizes of a GPU")
    parser.add_argument("--device", help="cpu or cuda:N")
    parser.add_argument("--shape", choices=("embedded", "sd15", "tiny"), help="the model")
    parser.add_argument("--size", type=int, help="height and width in pixels")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--batch", type=int, help="images denoised together")
    parser.add_argument("--batches", type=int, default=4, help="batches of a round")
    parser.add_argument("--naive", type=int, help="images of a round of the naive loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", help="batch sizes to try, as 10,25,50,100")
    parser.add_argument("--format", choices=("png", "webp"), default="png")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--worker", type=int, metavar="BATCH", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    cpu = {"device": "cpu", "shape": "embedded", "size": 64, "steps": 8, "dtype": "float32", "batch": 50, "naive": 30}
    gpu = {"device": "cuda:0", "shape": "sd15", "size": 512, "steps": 20, "dtype": "float16", "batch": 16, "naive": 8}
    others = {"sizes": "4,8,16,32,64" if chosen.gpu else "10,25,50,100"}
    for name, value in {**(gpu if chosen.gpu else cpu), **others}.items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, value)
    return chosen


def rounds(model: Any, sizes: argparse.Namespace) -> dict[str, list[float]]:
    """Images per second of every way in every round; each round begins with another one."""
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    names = list(WAYS)
    with tempfile.TemporaryDirectory(dir=ROOT / "bench") as folder:
        for _ in range(sizes.rounds):
            for name in names:
                found[name].append(WAYS[name](model, sizes, Path(folder)))
            names = names[1:] + names[:1]
    return found


class Clock:
    """Seconds spent in the parts of drawing, on whatever thread."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, with its time counted under ``name``."""

        def run(*args: Any, **keys: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **keys)
            finally:
                with self._lock:
                    self.seconds[name] += time.perf_counter() - start

        return run


def shares(model: Any, sizes: argparse.Namespace) -> dict[str, float]:
    """Time in each part of one round of ours over the round's time; together more than one where they overlap."""
    from t2ipal.synthesis import pipeline

    parts = {
        "embed": (model, "condition"),
        "denoise": (model, "denoise"),
        "decode": (model, "decode"),
        "encode": (pipeline, "encoded"),
        "write": (Tar, "write"),
    }
    clock = Clock()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=ROOT / "bench"))
        for name, (owner, function) in parts.items():
            stack.enter_context(patch.object(owner, function, clock.timed(name, getattr(owner, function))))
        seconds = images(sizes) / ours(model, sizes, Path(folder))
    return {name: clock.seconds[name] / seconds for name in parts}


def covered(intervals: Iterator[tuple[float, float]]) -> tuple[float, float]:
    """Length of the union of intervals, and the length from the first start to the last end."""
    total, first, last = 0.0, None, float("-inf")
    for start, end in sorted(intervals):
        first = start if first is None else first
        total += max(0.0, end - max(start, last))
        last = max(last, end)
    return total, 0.0 if first is None else last - first


def busy(model: Any, sizes: argparse.Namespace) -> float:
    """Share of a round of ours in which the device computes, from its first kernel to its last."""
    from torch.profiler import ProfilerActivity, profile

    device = "CUDA" if sizes.device.startswith("cuda") else "CPU"
    activities = [ProfilerActivity.__members__[device]]
    with tempfile.TemporaryDirectory(dir=ROOT / "bench") as folder, profile(activities=activities) as profiled:
        ours(model, sizes, Path(folder))
        synchronise(sizes)
    events: list[Any] = [*(profiled.events() or ())]
    kernels = [event for event in events if event.device_type.name == device and not event.is_user_annotation]
    total, whole = covered((event.time_range.start, event.time_range.end) for event in kernels)
    return total / whole


def peak(sizes: argparse.Namespace) -> float:
    """Largest memory so far in GB: of the GPU, else resident in RAM."""
    if sizes.device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1e9
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024 / 1e9


def worker(sizes: argparse.Namespace) -> dict[str, float]:
    """Images per second and peak memory of ours at one batch size, in a process of its own."""
    count = images(sizes)
    sizes.batch = sizes.worker
    model = load(sizes)
    sizes.batches = 1
    with tempfile.TemporaryDirectory(dir=ROOT / "bench") as folder:
        ours(model, sizes, Path(folder))
        sizes.batches = max(2, count // sizes.batch)
        rate = ours(model, sizes, Path(folder))
    return {"rate": rate, "peak": peak(sizes)}


def tried(sizes: argparse.Namespace, batch: int) -> dict[str, float]:
    """What a worker finds."""
    chosen = vars(sizes) | {"worker": batch}
    options = [f"--{name}={value}" for name, value in chosen.items() if name != "gpu" and value is not None]
    command = [sys.executable, __file__, *(["--gpu"] if sizes.gpu else []), *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def report_rates(found: dict[str, list[float]]) -> dict[str, float]:
    """Print every round and the median; returns the medians."""
    print(f"\n{'images/s':24s} {'rounds':36s} {'median':>8s} {'against naive':>14s}")
    medians = {name: statistics.median(values) for name, values in found.items()}
    for name, values in found.items():
        listed = " ".join(f"{value:8.2f}" for value in values)
        print(f"{name:24s} {listed:36s} {medians[name]:8.2f} {medians[name] / medians['naive loop']:14.2f}")
    return medians


def report(sizes: argparse.Namespace) -> None:
    """Print the tables; fail if what is required is not reached."""
    where = torch.cuda.get_device_name(sizes.device) if sizes.device.startswith("cuda") else "CPU"
    print(
        f"{sizes.shape} model, {sizes.size} x {sizes.size}, {sizes.steps} steps, batches of {sizes.batch}, "
        f"{sizes.dtype}, {sizes.threads} threads, on {where}; load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    model = load(sizes)
    rounds(model, argparse.Namespace(**vars(sizes) | {"rounds": 1, "batches": 1, "naive": 2}))  # warm up
    medians = report_rates(rounds(model, sizes))
    overlap = medians["ours"] / medians["ours without overlap"]
    of_unsaved = medians["ours"] / medians["batched pipe, unsaved"]
    ratio = medians["ours"] / medians["naive loop"]
    print(f"\noverlap gains {overlap:.2f} times; {of_unsaved:.0%} of the batched pipe that saves nothing")
    print("share of the time: " + ", ".join(f"{name} {share:.1%}" for name, share in shares(model, sizes).items()))
    demands = [("times the naive loop", ratio, REQUIRED_GPU if sizes.gpu else REQUIRED_CPU)]
    if sizes.gpu:
        share = busy(model, argparse.Namespace(**vars(sizes) | {"batches": min(sizes.batches, 3)}))
        print(f"the device computes {share:.1%} of the time")
        demands += [("of the unsaved pipe", of_unsaved, REQUIRED_UNSAVED), ("busy", share, REQUIRED_BUSY)]
    del model
    if sizes.device.startswith("cuda"):
        torch.cuda.empty_cache()
    print(f"\n{'batch':>5s} {'images/s':>9s} {'peak GB':>8s}")
    results = {int(size): tried(sizes, int(size)) for size in sizes.sizes.split(",")}
    for size, result in results.items():
        print(f"{size:5d} {result['rate']:9.2f} {result['peak']:8.2f}", flush=True)
    print(f"best batch size: {max(results, key=lambda size: results[size]['rate'])}\n")
    for what, found, required in demands:
        print(f"{found:.2f} {what} (required {required})")
    if any(found < required for _, found, required in demands):
        raise SystemExit("FAILED")


@contextmanager
def with_model(sizes: argparse.Namespace) -> Iterator[None]:
    """Put the model to use into ``sizes.model``, made for this run unless it is the embedded one."""
    if sizes.model is None and sizes.shape != "embedded":
        with tempfile.TemporaryDirectory() as folder:
            random_model(sizes.shape, Path(folder))
            sizes.model = f"local-dir:{folder}"
            yield
        return
    sizes.model = sizes.model or EMBEDDED
    yield


def main() -> None:
    """Print the tables, or, as a worker, the JSON of one batch size."""
    sizes = arguments()
    torch.set_num_threads(sizes.threads)
    with with_model(sizes):
        if sizes.worker is None:
            report(sizes)
        else:
            print(json.dumps(worker(sizes)))


if __name__ == "__main__":
    main()
