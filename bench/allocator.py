"""What `t2ipal.allocator` brings: CPU time of dense features with memory kept and with glibc's own rules, in one run.

    python bench/allocator.py
    python bench/allocator.py --models ViT-B-16 --batch 64 --rounds 9

Each side is a process with the same model of random weights and one thread; they take turns, batch by batch, and the
ratio is the median over rounds. Beside it stand the pages that the kernel had to provide for a batch.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time


def side(model: str, way: str, batch: int) -> None:
    """Answer every line with the seconds of a batch, and its page faults."""
    import logging

    import open_clip
    import torch

    from t2ipal.allocator import keep_freed
    from t2ipal.features.dense import image_features

    logging.disable(logging.WARNING)
    if way == "kept":
        keep_freed()
    torch.set_num_threads(1)
    visual = open_clip.create_model(model).eval().requires_grad_(False).visual.to(memory_format=torch.channels_last)
    images = torch.rand(batch, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    for _ in sys.stdin:
        faults, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
        with torch.inference_mode():
            image_features(visual, images, False)
        seconds = time.process_time() - start
        print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults, flush=True)


def compare(model: str, batch: int, rounds: int) -> None:
    """Print the line of one model."""
    command = [sys.executable, __file__, "--side", model]
    started = [
        subprocess.Popen(
            [*command, way, "--batch", str(batch)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for way in ("plain", "kept")
    ]
    measured: list[list[tuple[float, int]]] = [[], []]
    for _ in range(rounds + 1):
        for process, found in zip(started, measured, strict=True):
            assert process.stdin and process.stdout
            print(file=process.stdin, flush=True)
            seconds, faults = process.stdout.readline().split()
            found.append((float(seconds), int(faults)))
    for process in started:
        process.communicate()
    plain, kept = (found[1:] for found in measured)  # the first batch warms up
    ratios = [before[0] / after[0] for before, after in zip(plain, kept, strict=True)]
    each = [1000 * statistics.median(seconds for seconds, _ in found) / batch for found in (plain, kept)]
    pages = [statistics.median(faults for _, faults in found) for found in (plain, kept)]
    shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(
        f"{model}: {each[0]:.1f} -> {each[1]:.1f} ms of CPU an image, {pages[0]:,.0f} -> {pages[1]:,.0f} pages a batch"
    )
    print(f"    {statistics.median(ratios):.2f} times as fast (by rounds: {shown})")


def main() -> None:
    """Compare, or be one side."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["ViT-B-32", "RN50"], help="open_clip names")
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--side", nargs=2, metavar=("MODEL", "WAY"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        side(*given.side, given.batch)
        return
    for model in given.models:
        compare(model, given.batch, given.rounds)


if __name__ == "__main__":
    main()
