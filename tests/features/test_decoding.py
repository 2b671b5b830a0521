from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, ToTensor

from t2ipal.errors import UserError
from t2ipal.features import decoding
from t2ipal.features.decoding import DividedTransform, Source, decode_batches, worker_count


def _image(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def _png(seed: int) -> bytes:
    buffer = io.BytesIO()
    _image(seed).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
def test_a_divided_transform_gives_the_same_bits(resize_mode: str) -> None:
    transform = image_transform(24, is_train=False, resize_mode=resize_mode)
    images = [_image(seed, 40 + seed, 60 - seed) for seed in range(7)]
    divided = DividedTransform.of(transform)
    pixels = np.stack([np.asarray(divided.on_image(image)) for image in images])
    assert pixels.dtype == np.uint8
    assert torch.equal(divided.on_batch(torch.from_numpy(pixels)), torch.stack([transform(image) for image in images]))


@pytest.mark.parametrize("transform", [Compose([ToTensor(), CenterCrop(8)]), Compose([CenterCrop(8)]), ToTensor()])
def test_a_transform_of_another_kind_is_left_whole(transform: Callable[[Image.Image], Any]) -> None:
    divided = DividedTransform.of(transform)
    assert divided.on_image is transform
    pixels = torch.rand(2, 3, 8, 8)
    assert divided.on_batch(pixels) is pixels


def test_files_contents_and_images_are_decoded_and_the_unreadable_named(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(_png(0))
    (tmp_path / "3.png").write_text("no image")
    sources: list[list[Source]] = [
        [tmp_path / "0.png", _png(1), b"", _image(2).convert("L")],
        [tmp_path / "3.png"],
        [tmp_path / "4.png", _png(5)],
    ]
    first, second, third = decode_batches(sources, np.asarray, 0)
    assert first.reasons == {2: "the file is empty"}
    assert np.array_equal(first.pixels, np.stack([_image(0), _image(1), _image(2).convert("L").convert("RGB")]))
    assert len(second.pixels) == 0 and second.reasons == {0: "it is no image, or one that is damaged at its start"}
    assert third.reasons == {0: "there is no such file"}
    assert np.array_equal(third.pixels, [np.asarray(_image(5))])


def test_without_workers_a_batch_is_made_when_it_is_asked_for() -> None:
    taken = []

    def sources() -> Iterator[list[Source]]:
        for number in range(5):
            taken.append(number)
            yield [_png(number)]

    batches = decode_batches(sources(), np.asarray, 0)
    next(batches)
    assert taken == [0]


def _workers() -> list[int]:
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    return [int(pid) for pid in Path(f"/proc/{server}/task/{server}/children").read_text().split()]


def test_workers_keep_the_order_and_run_two_batches_each_ahead() -> None:
    taken = []

    def sources() -> Iterator[list[Source]]:
        for number in range(9):
            taken.append(number)
            yield [_png(2 * number), b"cut", _png(2 * number + 1)]

    batches = decode_batches(sources(), np.asarray, 2)
    for number in range(9):
        batch = next(batches)
        assert np.array_equal(batch.pixels, np.stack([_image(2 * number), _image(2 * number + 1)]))
        assert list(batch.reasons) == [1]
        assert len(taken) <= number + 1 + 2 * 2
    assert list(batches) == []
    assert taken == list(range(9))


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_work_with_one_sentence() -> None:
    batches = decode_batches(([_png(number)] for number in range(1000)), np.asarray, 1)
    next(batches)
    os.kill(_workers()[-1], signal.SIGKILL)  # the latest: one of an earlier test may still be ending
    with pytest.raises(UserError, match=r"memory ran out; set features\.workers or features\.batch_size lower"):
        for _ in batches:
            pass


KILLED = """
import io, os, signal
from multiprocessing import forkserver
import numpy as np
from PIL import Image
from t2ipal.features.decoding import decode_batches

buffer = io.BytesIO()
Image.new("RGB", (8, 8)).save(buffer, "PNG")
batches = decode_batches(([buffer.getvalue()] for _ in range(10_000)), np.asarray, 2)
next(batches)
server = forkserver._forkserver._forkserver_pid
print(server, open(f"/proc/{server}/task/{server}/children").read(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_a_job_that_is_killed_leaves_no_process(tmp_path: Path, until: Callable[[Callable[[], object]], None]) -> None:
    with (tmp_path / "out").open("w") as out:
        assert subprocess.run([sys.executable, "-c", KILLED], stdout=out).returncode == -signal.SIGKILL
    processes = [int(pid) for pid in (tmp_path / "out").read_text().split()]
    assert len(processes) == 3
    until(lambda: not any(map(_runs, processes)))


def test_memory_that_runs_out_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(decoding, "decode", full)
    with pytest.raises(UserError, match="memory ran out while images were decoded"):
        list(decode_batches([[b"x"]], np.asarray, 0))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_source_is_left_as_it_is(workers: int) -> None:
    def sources() -> Iterator[list[Source]]:
        for number in range(3):
            yield [_png(number)]
        raise OSError("boom")

    with pytest.raises(OSError, match="boom"):
        list(decode_batches(sources(), np.asarray, workers))


def test_workers_are_none_on_a_cpu_some_beside_a_gpu_and_never_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    assert worker_count(None, "cpu", 50) == 0
    assert worker_count(None, "cuda", 50) == 6
    assert worker_count(None, "cuda", 2) == 2
    assert worker_count(3, "cpu", 50) == 3
    assert worker_count(0, "cuda", 50) == 0
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert worker_count(None, "cuda", 50) == 8
