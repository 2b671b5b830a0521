"""Ways to draw the same images: the naive loop, ours with and without overlap, a batched pipe that saves nothing."""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

NAMES = "dog", "cat", "bus", "person", "chair", "boat", "bird", "train", "sofa", "bottle", "horse"
SEED = 0


def load(sizes: argparse.Namespace) -> Any:
    """The generator of the stage."""
    from t2ipal.settings import SynthesisSettings
    from t2ipal.synthesis.generator import load

    settings = SynthesisSettings(
        model=sizes.model,
        steps=sizes.steps,
        guidance=7.5 if sizes.gpu else 3.0,
        height=sizes.size,
        width=sizes.size,
        dtype=sizes.dtype,
    )
    return load(settings.model_dump(mode="json"), sizes.device)


def samples(count: int, first: int = 0) -> list[Any]:
    """Captions that differ, each with an id of its own."""
    from t2ipal.synthesis.plan import Caption, Sample

    found = []
    for index in range(first, first + count):
        text = f"a photo of a {NAMES[index % 11]} beside a {NAMES[index // 11 % 11]}"
        found.append(Sample(Caption(f"{index:016x}", text, (NAMES[index % 11],), ()), 0))
    return found


class Tar:
    """A shard as the stage writes it: image, caption and description of each sample; flushed after each batch."""

    def __init__(self, path: Path, image_format: str) -> None:
        self.image_format = image_format
        self.handle = path.open("wb", buffering=0)

    def write(self, batch: Sequence[Any], files: Sequence[Any]) -> None:
        """Append a batch."""
        from t2ipal.io import canonical_json
        from t2ipal.synthesis.archive import member

        parts = []
        for sample, file in zip(batch, files, strict=True):
            record = {"key": sample.key, "sha256": hashlib.sha256(file.data).hexdigest(), "attempt": file.attempt}
            parts.append(member(f"{sample.key}.{self.image_format}", file.data))
            parts.append(member(f"{sample.key}.txt", sample.caption.text.encode()))
            parts.append(member(f"{sample.key}.json", canonical_json(record).encode()))
        self.handle.write(b"".join(parts))
        os.fsync(self.handle.fileno())


def synchronise(sizes: argparse.Namespace) -> None:
    """Wait for the GPU."""
    if sizes.device.startswith("cuda"):
        torch.cuda.synchronize()


def naive(model: Any, sizes: argparse.Namespace, folder: Path) -> float:
    """Images per second of the loop that everybody writes."""
    count: int = sizes.naive
    start = time.perf_counter()
    for sample in samples(count):
        image = model.pipeline(
            sample.caption.text,
            num_inference_steps=sizes.steps,
            guidance_scale=model.settings["guidance"],
            height=sizes.size,
            width=sizes.size,
            generator=torch.Generator().manual_seed(sample.seed(0, SEED)),
        ).images[0]
        image.save(folder / f"{sample.key}.png")
    return count / (time.perf_counter() - start)


def images(sizes: argparse.Namespace) -> int:
    """How many images a round has."""
    count: int = sizes.batch * sizes.batches
    return count


def batches(sizes: argparse.Namespace) -> list[list[Any]]:
    """The batches of a round."""
    return [samples(sizes.batch, index * sizes.batch) for index in range(sizes.batches)]


def ours(model: Any, sizes: argparse.Namespace, folder: Path) -> float:
    """Images per second of the stage."""
    from t2ipal.synthesis.pipeline import draw_batches

    start = time.perf_counter()
    tar = Tar(folder / "shard.tar", sizes.format)
    draw_batches(model, batches(sizes), SEED, 0, tar.write, lambda: False, sizes.format)
    return images(sizes) / (time.perf_counter() - start)


def in_turn(model: Any, sizes: argparse.Namespace, folder: Path) -> float:
    """Images per second of the stage without overlap."""
    from t2ipal.synthesis.encoding import encoded
    from t2ipal.synthesis.gate import Gate

    start = time.perf_counter()
    tar = Tar(folder / "shard.tar", sizes.format)
    for batch in batches(sizes):
        gate = Gate(batch, SEED, 0)
        prompts, seeds = gate.request()
        gate.judge(*model.decode(model.denoise(model.condition(prompts), seeds)))
        tar.write(batch, [encoded(drawn, sizes.format) for drawn in gate.drawn()])
    return images(sizes) / (time.perf_counter() - start)


def unsaved(model: Any, sizes: argparse.Namespace, folder: Path) -> float:
    """Images per second of the pipeline called with a batch, its images thrown away."""
    start = time.perf_counter()
    for batch in batches(sizes):
        model.pipeline(
            [sample.caption.text for sample in batch],
            num_inference_steps=sizes.steps,
            guidance_scale=model.settings["guidance"],
            height=sizes.size,
            width=sizes.size,
            generator=[torch.Generator().manual_seed(sample.seed(0, SEED)) for sample in batch],
            output_type="pt",
        )
    synchronise(sizes)
    return images(sizes) / (time.perf_counter() - start)


WAYS: dict[str, Callable[[Any, argparse.Namespace, Path], float]] = {
    "naive loop": naive,
    "ours": ours,
    "ours without overlap": in_turn,
    "batched pipe, unsaved": unsaved,
}
