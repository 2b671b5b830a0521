"""How fast the feature cache is read when a training begins and while it runs, and in what memory.

`python bench/cache.py` writes random half-precision features as RN50 has them (49 positions of 1,024 numbers, 102 kB a
row) twice, once three times as many; a fresh process reads each and makes batches of them in order and shuffled.

Memory is RssAnon + RssShmem of the reading process, sampled every 50 ms. Pages of the mapped file are not in it: the
kernel takes them back when it needs them. What grows with the rows is what a row keeps there: the global features of 2
kB, key, labels and targets.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import memory
import numpy as np
import torch

from t2ipal.features import store
from t2ipal.learning.data import Samples, generator

POSITIONS, BATCH, CLASSES = 49, 512, 80
ROW = 2 * (POSITIONS + 1) * memory.WIDTH
ALLOWED = 0.06  # of a row's size, by which memory may grow with a row


def arguments() -> argparse.Namespace:
    """The sizes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs=2, default=[12_000, 36_000])
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="where the features go")
    return parser.parse_args()


def write(directory: Path, rows: int) -> list[Path]:
    """The Parquet parts."""
    return memory.write(directory, argparse.Namespace(rows=rows, positions=POSITIONS), names())


def names() -> list[str]:
    """The classes."""
    return [f"object {number}" for number in range(CLASSES)]


def read(parts: list[Path]) -> tuple[dict[str, float], int]:
    """Rows per second of each phase, and bytes of memory at the peak beyond what there was before."""
    torch.set_num_threads(1)
    before = memory.resident()["held"]
    meter, rates = memory.Meter(parts[0].parent), {}
    features, seconds = meter.run("read", lambda: store.read(parts))
    count = len(features.keys)
    rates["read"] = count / seconds
    samples = Samples.of(features, names(), torch.device("cpu"))
    orders = {"in order": np.arange(count), "shuffled": generator(0, "prompt order", 0).permutation(count)}
    for name, order in orders.items():
        _, seconds = meter.run(f"batches {name}", lambda order=order: memory.visit(samples, BATCH, order))  # type: ignore[misc]
        rates[name] = count / seconds
    return rates, meter.peak - before


def alone(work: Callable[..., Any], *given: Any) -> Any:
    """What ``work`` returns, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *given).result()


def main() -> None:
    """Measure both sizes; fail if memory grows as the rows do."""
    sizes = arguments()
    peaks = []
    for rows in sizes.rows:
        with tempfile.TemporaryDirectory(prefix="t2ipal-cache-", dir=sizes.directory.resolve()) as directory:
            print(f"\n{rows} rows, {rows * ROW / 1e9:.1f} GB")
            rates, peak = alone(read, alone(write, Path(directory), rows))
        print(f"rows/s: {', '.join(f'{name} {rate:,.0f}' for name, rate in rates.items())}; {peak / 1e6:.0f} MB")
        peaks.append(peak)
    growth = (peaks[1] - peaks[0]) / (sizes.rows[1] - sizes.rows[0])
    print(f"\nmemory grows by {growth / 1e3:.1f} kB with each row of {ROW / 1e3:.0f} kB (allowed {ALLOWED:.0%} of it)")
    if growth > ALLOWED * ROW:
        raise SystemExit("FAILED")


if __name__ == "__main__":
    main()
