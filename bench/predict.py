"""Images per second of the recogniser against the plain zero-shot loop of open_clip, in one run.

    python bench/predict.py
    python bench/predict.py --device cuda --workers 8 --images 4000 --batch 256
    python bench/predict.py --models RN50 --workers 1 --threads 1

Both read the same JPEG files in the same batches with the same open_clip model of random weights in float32, on equal
threads. The loop does what open_clip's README does, in batches: `preprocess(Image.open(file))`, `encode_image`,
normalise, product with the classes' embeddings (computed beforehand), softmax, best class. The recogniser does more for
an image: upright, dense features, prompts, class-wise heatmaps, prototypes and cache, probabilities and thresholds
of 80 classes. With --workers the loop has a DataLoader of so many processes, too. They take turns; the ratio is the
median over rounds. Beside it stands the ratio of processor time, which other work on the machine disturbs less. That
both see the same image features is checked in the same run. Then the time and memory that loading takes, in processes
of their own, less what imports take.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
from features import photographs, random_weights
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, Dataset

from t2ipal import Prediction, Recognizer
from t2ipal.evaluation.calibration import Calibration
from t2ipal.identity import clip_identity
from t2ipal.learning import models
from t2ipal.learning.heads import Adapter, Head
from t2ipal.settings import FeatureSettings

REQUIRED = 1.0
DIFFERENCE = 1e-5  # of scores, between the recogniser and the head on the loop's features
CLASSES = 80
KEYS = 16  # of the cache, per class


def arguments() -> argparse.Namespace:
    """The sizes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["ViT-B-32", "RN50"], help="open_clip names")
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="of the model")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--loading", nargs=2, metavar=("WHO", "DIRECTORY"), help=argparse.SUPPRESS)
    return parser.parse_args()


def write_model(directory: Path, name: str, weights: Path, size: int) -> Path:
    """A recogniser of random numbers with everything that T2I-PAL has."""
    features = FeatureSettings(backbone=name, pretrained=str(weights)).model_dump(mode="json")
    features["model_identity"] = clip_identity(name, str(weights))
    draw = torch.Generator().manual_seed(0)
    labels = tuple(f"class {number}" for number in range(CLASSES))
    embeddings = [torch.randn(CLASSES, size, generator=draw) for _ in range(2)]
    prototypes, keys = torch.randn(CLASSES, 1, size, generator=draw), torch.randn(KEYS * CLASSES, size, generator=draw)
    adapter = Adapter(prototypes, keys, torch.eye(CLASSES).repeat(KEYS, 1), 5.5, "max")
    head = Head(labels, labels, *embeddings, 4.0, 40.0, alpha=1.0, adapter=adapter)
    zero = np.zeros(CLASSES)
    about = {"method": "t2i-pal", "features": features, "calibration": Calibration(zero + 1, zero, zero).to_dict()}
    models.write(head, {}, about, directory / "model.json")
    return directory


class _Files(Dataset[Tensor]):
    def __init__(self, files: Sequence[Path], preprocess: Callable[[Image.Image], Tensor]) -> None:
        self.files, self.preprocess = files, preprocess

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> Tensor:
        return self.preprocess(Image.open(self.files[row]).convert("RGB"))


class Loop:
    """open_clip's zero-shot classification."""

    def __init__(self, name: str, weights: Path, device: str) -> None:
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(name, str(weights), device=device)
        self.model.eval()
        self.device = device
        tokens = open_clip.get_tokenizer(name)([f"a photo of a class {number}" for number in range(CLASSES)])
        with torch.inference_mode():
            self.texts = normalize(self.model.encode_text(tokens.to(device)), dim=-1)

    def run(self, files: Sequence[Path], sizes: argparse.Namespace) -> list[int]:
        """The best class of every image."""
        batches = DataLoader(_Files(files, self.preprocess), sizes.batch, num_workers=sizes.workers)
        best: list[int] = []
        with torch.inference_mode():
            for images in batches:
                features = normalize(self.model.encode_image(images.to(self.device)), dim=-1)
                best += (100 * features @ self.texts.T).softmax(dim=-1).argmax(dim=-1).tolist()
        return best


def difference(recognizer: Recognizer, loop: Loop, directory: Path, files: Sequence[Path]) -> float:
    """The largest difference of global scores between the recogniser's features and open_clip's."""
    head = models.load(directory)
    assert isinstance(head, Head)
    pixels = torch.stack([loop.preprocess(Image.open(file).convert("RGB")) for file in files])
    with torch.inference_mode():
        theirs = normalize(loop.model.encode_image(pixels.to(loop.device)), dim=-1).cpu()
    global_, local, _ = recognizer._encoder.encode_pixels(pixels)
    expected = head.scores(theirs, local)
    found = np.stack([one.scores for one in recognizer.predict(files) if isinstance(one, Prediction)])
    assert torch.allclose(global_, theirs, atol=1e-5)
    return float(np.abs(found - expected.numpy()).max())


def compare(sizes: argparse.Namespace, name: str, directory: Path, files: Sequence[Path]) -> str | None:
    """Print the table of one model; what is wrong with it."""
    weights = random_weights(name, directory / "weights.safetensors")
    loop = Loop(name, weights, sizes.device)
    model = write_model(directory / "model", name, weights, loop.texts.shape[1])
    recognizer = Recognizer.load(model, sizes.device)
    sides: dict[str, Callable[[], object]] = {
        "loop": lambda: loop.run(files, sizes),
        "recogniser": lambda: recognizer.predict(files, sizes.batch, workers=sizes.workers),
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    busy: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(-1, sizes.rounds):  # the first one warms up
        for side in sides if number % 2 else reversed(sides):
            start, processor = time.perf_counter(), time.process_time()
            sides[side]()
            if number >= 0:
                seconds[side].append(time.perf_counter() - start)
                busy[side].append(time.process_time() - processor)
    print(f"\n{name:12s} {'images/s':>9s} {'slowest':>9s} {'fastest':>9s}")
    for side, values in seconds.items():
        rates = [len(files) / value for value in values]
        print(f"{side:12s} {statistics.median(rates):9.1f} {min(rates):9.1f} {max(rates):9.1f}")
    ratios, effort = (
        [theirs / ours for theirs, ours in zip(found["loop"], found["recogniser"], strict=True)]
        for found in (seconds, busy)
    )
    ratio = statistics.median(ratios)
    print(f"the recogniser is {ratio:.2f} times as fast (by rounds: {', '.join(f'{each:.2f}' for each in ratios)})")
    print(f"by processor time {statistics.median(effort):.2f} ({', '.join(f'{each:.2f}' for each in effort)})")
    worst = difference(recognizer, loop, model, files[: sizes.batch])
    print(f"largest difference of scores from those on open_clip's features: {worst:.1e}")
    for who in ("loop", "recogniser"):
        given = [sys.executable, __file__, "--models", name, "--device", sizes.device, "--loading", who, str(directory)]
        found = json.loads(subprocess.run(given, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        print(f"loading, {who}: {found['seconds']:.2f} s, {found['megabytes']:.0f} MB")
    if ratio < REQUIRED:
        return f"{name}: {ratio:.2f} of the loop's speed, {REQUIRED} required"
    return f"{name}: scores differ" if worst > (DIFFERENCE if sizes.device == "cpu" else 1e-2) else None


def _peak() -> float:
    """Megabytes of this process at its peak; what the system counts of children begins with their parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))


def load(sizes: argparse.Namespace) -> None:
    """Print how long one side takes to load, and by how much the process grows at its peak."""
    who, directory = sizes.loading[0], Path(sizes.loading[1])
    before, start = _peak(), time.perf_counter()
    if who == "loop":
        Loop(sizes.models[0], directory / "weights.safetensors", sizes.device)
    else:
        Recognizer.load(directory / "model", sizes.device)
    print(json.dumps({"seconds": time.perf_counter() - start, "megabytes": _peak() - before}))


def main() -> None:
    """Print the tables; fail if the recogniser is slower, or scores otherwise."""
    sizes = arguments()
    logging.disable(logging.WARNING)  # that there are no pretrained weights is meant
    torch.set_num_threads(sizes.threads)
    if sizes.loading:
        load(sizes)
        return
    print(
        f"{sizes.images} photographs in batches of {sizes.batch}, {sizes.device}, {sizes.workers} workers, "
        f"{sizes.threads} threads, medians of {sizes.rounds} rounds"
    )
    wrong: list[str | None] = []
    with tempfile.TemporaryDirectory(prefix="t2ipal-predict-") as directory:
        files = sorted(photographs(Path(directory, "photographs"), sizes.images).iterdir())
        for name in sizes.models:
            with tempfile.TemporaryDirectory(dir=directory) as folder:
                wrong.append(compare(sizes, name, Path(folder), files))
    if any(wrong):
        raise SystemExit(f"FAILED: {'; '.join(filter(None, wrong))}")


if __name__ == "__main__":
    main()
