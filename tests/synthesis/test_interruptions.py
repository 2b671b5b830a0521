"""A plan drawn in five ways, with processes killed at random: all images and manifests are the undisturbed ones."""

import io
import json
import multiprocessing
import random
import signal
import tarfile
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from t2ipal.synthesis.plan import Shard, shards

pytestmark = pytest.mark.slow

CAPTIONS, REPLICAS, BATCH = 120, 2, 4
# A fork of a process that has torch and diffusers: a worker starts in a tenth of a second, however it will end.
WORKERS = multiprocessing.get_context("forkserver")
PIPELINES = ["auto_pipeline", "stable_diffusion.pipeline_stable_diffusion"]
WORKERS.set_forkserver_preload(["t2ipal.synthesis.stage", *(f"diffusers.pipelines.{name}" for name in PIPELINES)])


# What a worker that is to be killed draws at the most: so 12 kills come before the end, however late each of them is.
MOST = 4


def work(settings: dict[str, Any], captions: str, names: Sequence[str], folder: str, told: str, most: int) -> None:
    """What a job does; every batch of images that leaves the decoder is a line in ``told``.

    It stands still behind ``most`` batches.
    """
    import torch

    from t2ipal.synthesis.generator import Generator
    from t2ipal.synthesis.stage import Job, draw

    torch.set_num_threads(1)  # as in a job of the workflow: a core is free for the thread that decodes and writes
    decode, batches = Generator.decode, count()

    def counted(generator: Generator, latents: Any) -> Any:
        # So that kills fall into drawing, not only into loading.
        time.sleep(0.01 if next(batches) < most else 600)
        found = decode(generator, latents)
        with open(told, "a", encoding="utf-8") as log:
            log.write(f"{len(found[0])}\n")
        return found

    Generator.decode = counted  # type: ignore[method-assign]
    size = settings["shard_size"]
    jobs = [Job(settings, Path(captions), Shard.of(name, size), Path(folder, f"shard-{name}.tar")) for name in names]
    draw(jobs, "cpu")


class Run:
    """One way to draw the plan."""

    def __init__(self, settings: dict[str, Any], captions: Path, folder: Path, size: int) -> None:
        self.settings = {**settings, "shard_size": size, "batch_size": BATCH}
        self.captions, self.folder = captions, folder
        self.names = [shard.name for shard in shards(CAPTIONS, REPLICAS, size)]
        self.told = folder / "drawn.txt"
        folder.mkdir()
        self.told.touch()

    def start(self, names: Sequence[str], most: int = CAPTIONS * REPLICAS) -> Any:
        process = WORKERS.Process(
            target=work, args=(self.settings, str(self.captions), names, str(self.folder), str(self.told), most)
        )
        process.start()
        return process

    def complete(self, workers: int) -> None:
        """Let each worker draw its share to the end."""
        processes = [self.start(self.names[index::workers]) for index in range(workers)]
        for process in processes:
            process.join()
            assert process.exitcode == 0

    def interrupt(self, workers: int, kills: int, rng: random.Random) -> int:
        """Kill workers at random moments after they have begun to draw, and begin them again; returns the kills."""
        done = 0
        while done < kills and not all((self.folder / f"shard-{name}.json").exists() for name in self.names):
            before = self.drawn
            processes = [self.start(self.names[index::workers], MOST) for index in range(workers)]
            while self.drawn == before and any(process.is_alive() for process in processes):
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.1))
            for process in processes:
                process.kill()
                process.join()
                done += process.exitcode == -signal.SIGKILL
        return done

    @property
    def drawn(self) -> int:
        """Images drawn in all attempts."""
        return sum(map(int, self.told.read_text().split()))

    def images(self) -> dict[str, tuple[dict[str, Any], bytes]]:
        """Record and pixels of every image by its key, and that each is in one shard only."""
        found: dict[str, tuple[dict[str, Any], bytes]] = {}
        for name in self.names:
            with tarfile.open(self.folder / f"shard-{name}.tar") as tar:
                content = {item.name: tar.extractfile(item).read() for item in tar}  # type: ignore[union-attr]
            for key in (item.removesuffix(".json") for item in content if item.endswith(".json")):
                assert key not in found
                record = json.loads(content[f"{key}.json"])
                del record["settings_digest"]  # the shard's size is in it
                pixels = np.asarray(Image.open(io.BytesIO(content[f"{key}.png"])))
                found[key] = record, pixels.tobytes()
        return found

    def manifests(self) -> dict[str, dict[str, Any]]:
        """What the manifests say, but for times and what was taken up."""
        found = {name: json.loads((self.folder / f"shard-{name}.json").read_text()) for name in self.names}
        passing = ("seconds", "images_per_second", "resumed", "truncated")
        return {name: {k: v for k, v in facts.items() if k not in passing} for name, facts in found.items()}


def test_five_ways_to_draw_a_plan_give_the_same_images_and_manifests(
    tmp_path: Path, settings: dict[str, Any], write_captions: Callable[..., Path]
) -> None:
    captions = write_captions(tmp_path / "captions.parquet", CAPTIONS)
    rng = random.Random()
    asked = CAPTIONS * REPLICAS
    large, small = (Run(settings, captions, tmp_path / str(size), size) for size in (CAPTIONS, 24))
    large.complete(1)
    small.complete(1)
    assert large.drawn == small.drawn == asked
    four = Run(settings, captions, tmp_path / "four", 24)
    four.complete(4)
    assert four.drawn == asked

    killed = Run(settings, captions, tmp_path / "killed", CAPTIONS)
    kills = killed.interrupt(1, 12, rng)
    killed.complete(1)
    assert asked <= killed.drawn <= asked + kills * BATCH
    both = Run(settings, captions, tmp_path / "both", 24)
    more = both.interrupt(4, 12, rng)
    both.complete(4)
    assert asked <= both.drawn <= asked + more * BATCH
    assert kills + more >= 20

    expected = large.images()
    assert len(expected) == asked
    assert len({pixels for _, pixels in expected.values()}) == asked
    for run in (small, four, killed, both):
        assert run.images() == expected
    assert killed.manifests() == large.manifests()
    assert four.manifests() == both.manifests() == small.manifests()
    assert not list(tmp_path.rglob("*.part*"))
