"""How long Snakemake takes to plan 10,000 shards of images, up to the end of a dry run. `python bench/dag.py`

One seed, 80,000 captions in shards of 8, and the whole of `eval_all`; 50 shards or parts share a job, so that there
are some 400 jobs. All studies are there beside it, as in every run: their rules are read, though nobody asks for them.
Another number of shards: `python bench/dag.py 1000`.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
LINKED = ("Snakefile", "workflow", "profiles", "config.yaml", "config", "src", "envs")
SHARD, PER_JOB = 8, 50
ALLOWED = 60  # seconds of CPU


def overlay(shards: int) -> dict[str, object]:
    """The configuration of so many shards."""
    return {
        "seeds": [0],
        "methods": ["t2i-pal"],
        "captions": {"total": shards * SHARD},
        "synthesis": {"shard_size": SHARD, "batch_size": SHARD, "shards_per_job": PER_JOB},
        "features": {"parts_per_job": PER_JOB},
    }


def main() -> None:
    """Print the seconds; fail if they are too many."""
    shards = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        for name in LINKED:
            Path(folder, name).symlink_to(ROOT / name)
        Path(folder, "overlay.yaml").write_text(yaml.safe_dump(overlay(shards)), encoding="utf-8")
        files = ["config/smoke.yaml", "overlay.yaml"]
        command = [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "all", "--cores", "2", "--configfile"]
        start = time.monotonic()
        done = subprocess.run([*command, *files], cwd=folder, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    jobs = re.findall(r"^total +(\d+)$", done.stdout + done.stderr, flags=re.M)
    if done.returncode != 0 or not jobs:
        raise SystemExit(done.stdout + done.stderr)
    cpu = used.ru_utime + used.ru_stime
    print(f"{shards:,} shards, {jobs[-1]} jobs: {seconds:.1f} s, of which {cpu:.1f} s of CPU; {os.cpu_count()} cores")
    print(f"peak memory {used.ru_maxrss / 2**20:.2f} GB")
    # A single thread: with a core of its own it takes no longer than this.
    if cpu > ALLOWED:
        raise SystemExit(f"more than {ALLOWED} s")


if __name__ == "__main__":
    main()
