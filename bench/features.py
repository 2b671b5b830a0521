"""Images per second of the features stage against clip-retrieval's inference, in one run.

    python -m venv /tmp/theirs     # their code with our libraries, as their pins exclude our torch and numpy
    site=$(echo /tmp/theirs/lib/*/site-packages)
    python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > $site/ours.pth
    /tmp/theirs/bin/pip install --no-deps -r bench/clip-retrieval.txt
    python bench/features.py --clip-retrieval /tmp/theirs/bin/python
    python bench/features.py       # without it: ours alone
    python bench/features.py --device cuda --workers 8 --images 4000 --batch 256 --clip-retrieval ...   # in bfloat16

Both read the same JPEG files in as many worker processes, encode them with the same open_clip model of random weights
in the same precision and batches on as many threads, and write float16: theirs global features as .npy, ours global
and local ones as Parquet, flushed to disk. Each side is a process that loads its model once, and then they take turns;
the ratio is the median over rounds. Of theirs, `worker` runs as it is but for two things in its favour: it has no
logger, a process of its own that would compete for the cores; and its model is put into evaluation mode before it is
warmed up, which it forgets (its features of ResNets depend on the batch, and the warm-up spoils the statistics of
batch normalisation). That the features are the same is checked in the same run.

Then ours is run on four times as many images, to see that its memory does not grow. bench/cache.py reads the cache.
"""

from __future__ import annotations

import argparse
import io
import logging
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from extractors import Options, Side
from PIL import Image
from safetensors.torch import save_model

from t2ipal.features import store

PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "shared/data/VOCdevkit/VOC2007/JPEGImages"
REQUIRED = 1.0
DIFFERENCE = 1e-5  # of 1 - cosine, between global features of both sides
MORE = 4  # times as many images, for the memory of extraction


def arguments() -> argparse.Namespace:
    """The sizes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["ViT-B-32", "RN50"], help="open_clip names")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of the model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--clip-retrieval", metavar="PYTHON", help="Python of an environment that has it")
    return parser.parse_args()


def photographs(folder: Path, count: int) -> Path:
    """So many JPEG files, over and over the same ones: real ones, or else noise of their size and detail."""
    folder.mkdir()
    found = [path.read_bytes() for path in sorted(PHOTOGRAPHS.glob("*.jpg"))]
    for seed in range(0 if found else 100):
        coarse = np.random.default_rng(seed).integers(0, 256, (47, 63, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
        found.append(buffer.getvalue())
    for number in range(count):
        (folder / f"{number:06d}.jpg").write_bytes(found[number % len(found)])
    return folder


def random_weights(name: str, path: Path) -> Path:
    """A file of an open_clip model's weights."""
    torch.manual_seed(0)
    save_model(open_clip.create_model(name), str(path))
    return path


def largest_difference(theirs: Path, ours: Path) -> float:
    """1 - cosine of global features, of the worst image."""
    one = np.load(theirs / "img_emb/img_emb_0.npy").astype(np.float64)
    other = store.read([ours / "part.parquet"]).global_.astype(np.float64)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float((1 - (one * other).sum(axis=1) / norms).max())


@dataclass(frozen=True)
class Measured:
    """Every round of each side, memory at the peak with few and many images, and how far features differ."""

    rounds: dict[str, list[dict[str, float]]]
    memory: tuple[float, float]
    difference: float | None


def measure(sizes: argparse.Namespace, model: str, folder: Path, few: Path, many: Path) -> Measured:
    """Let the sides take turns, after one run each to load and warm up."""
    weights = str(random_weights(model, folder / "weights.safetensors"))
    options = Options(model, weights, sizes.batch, sizes.workers, sizes.threads, sizes.device)
    pythons = {"theirs": sizes.clip_retrieval, "ours": sys.executable}
    with ExitStack() as stack:
        sides = {
            name: stack.enter_context(Side(name, python, options, folder)) for name, python in pythons.items() if python
        }
        outputs = {name: side.run(few)[0] for name, side in sides.items()}
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        for number in range(sizes.rounds):
            for name in sides if number % 2 else reversed(sides):
                rounds[name].append(sides[name].run(few)[1])
        memory = (sides["ours"].run(few)[1]["peak"], sides["ours"].run(many)[1]["peak"])
    difference = largest_difference(outputs["theirs"], outputs["ours"]) if "theirs" in outputs else None
    return Measured(rounds, memory, difference)


def ratios(found: Measured, key: str) -> tuple[float, str]:
    """The median of theirs over ours, and that of every round."""
    pairs = zip(found.rounds["theirs"], found.rounds["ours"], strict=True)
    each = [theirs[key] / ours[key] for theirs, ours in pairs]
    return statistics.median(each), ", ".join(f"{value:.2f}" for value in each)


def report(sizes: argparse.Namespace, model: str, found: Measured) -> list[str]:
    """Print the table of one model; what is wrong with it."""
    wrong = []
    print(f"\n{model:12s} {'images/s':>9s} {'slowest':>9s} {'fastest':>9s} {'CPU ms each':>12s}")
    for name, rounds in found.rounds.items():
        rates = [sizes.images / each["seconds"] for each in rounds]
        cpu = 1000 * statistics.median(each["cpu"] for each in rounds) / sizes.images
        print(f"{name:12s} {statistics.median(rates):9.1f} {min(rates):9.1f} {max(rates):9.1f} {cpu:12.1f}")
    if found.difference is not None:
        ratio, said = ratios(found, "seconds")
        print(f"ours is {ratio:.2f} times as fast (by rounds: {said})")
        cpu, said = ratios(found, "cpu")
        print(f"by CPU time, which other work disturbs less: {cpu:.2f} times ({said})")
        print(f"largest 1 - cosine between both sides' global features: {found.difference:.1e}")
        if ratio < REQUIRED:
            wrong.append(f"{model}: {ratio:.2f} of clip-retrieval's speed, {REQUIRED} required")
        if found.difference > (DIFFERENCE if sizes.device == "cpu" else 2e-3):
            wrong.append(f"{model}: features differ")
    less, more = (f"{value / 1e6:.0f} MB" for value in found.memory)
    print(f"memory of ours at its peak: {less} with {sizes.images} images, {more} with {MORE * sizes.images}")
    return wrong


def main() -> None:
    """Print the tables; fail if ours is slower, or its features are others."""
    sizes = arguments()
    logging.disable(logging.WARNING)  # that there are no pretrained weights is meant
    print(
        f"{sizes.images} photographs in batches of {sizes.batch}, {sizes.device}, {sizes.workers} workers, "
        f"{sizes.threads} threads, medians of {sizes.rounds} rounds"
    )
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="t2ipal-features-") as directory:
        few = photographs(Path(directory, "few"), sizes.images)
        many = photographs(Path(directory, "many"), MORE * sizes.images)
        for model in sizes.models:
            with tempfile.TemporaryDirectory(dir=directory) as folder:
                wrong += report(sizes, model, measure(sizes, model, Path(folder), few, many))
    if wrong:
        raise SystemExit(f"FAILED: {'; '.join(wrong)}")


if __name__ == "__main__":
    main()
