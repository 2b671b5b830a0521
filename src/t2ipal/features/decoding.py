"""Images -> the tower's pixels, decoded in processes that keep ahead of the model."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, ToTensor

from t2ipal.errors import UserError
from t2ipal.images import Source, UnreadableImageError, decode

# Beside a GPU; more processes than this seldom find cores of their own.
MOST_WORKERS = 8
# Batches that each worker holds ready: one being decoded and one waiting.
_AHEAD = 2


@dataclass(frozen=True)
class Decoded:
    """A batch of images: ``pixels`` of those that can be read, in order, and the others' reasons by position."""

    pixels: NDArray[Any]
    reasons: dict[int, str]


@dataclass(frozen=True)
class DividedTransform:
    """A backbone's transform in two: what needs the image, and the arithmetic on the batch, on the model's device.

    A worker thus hands on bytes instead of floats, a quarter of them; the results are bit for bit the same.
    """

    on_image: Callable[[Image.Image], Any]
    # Mean and deviation [3] of each normalisation of the batch; None: ``on_image`` does it all.
    shifts: tuple[tuple[Tensor, Tensor], ...] | None

    @classmethod
    def of(cls, transform: Callable[[Image.Image], Tensor]) -> DividedTransform:
        """Divide at ``ToTensor`` if only normalisation comes after it; else the workers do it all."""
        steps = transform.transforms if isinstance(transform, Compose) else []
        middle = next((i for i, step in enumerate(steps) if isinstance(step, ToTensor)), None)
        after = [] if middle is None else steps[middle + 1 :]
        if middle is None or not all(isinstance(step, Normalize) for step in after):
            return cls(transform, None)
        shifts = tuple((torch.as_tensor(step.mean), torch.as_tensor(step.std)) for step in after)
        return cls(Compose(steps[:middle]), shifts)

    def on_batch(self, pixels: Tensor) -> Tensor:
        """Bytes [N, H, W, 3] -> float32 [N, 3, H, W], as ``ToTensor`` and ``Normalize`` make them.

        Along the axis of colours, which comes last in memory: along another one it takes half as long again.
        """
        if self.shifts is None:
            return pixels
        found = pixels.to(torch.float32).div_(255)
        for mean, deviation in self.shifts:
            found.sub_(mean.to(found.device)).div_(deviation.to(found.device))
        return found.permute(0, 3, 1, 2)


def worker_count(asked: int | None, device: str, batches: int) -> int:
    """How many processes decode: as many as asked for, or none on a CPU and up to 8 beside a GPU; none is idle."""
    if asked is None:
        asked = 0 if device == "cpu" else min(MOST_WORKERS, len(os.sched_getaffinity(0)))
    return min(asked, batches)


class _Decoding(Dataset[NDArray[Any] | str]):
    """What is looked up is the image itself, so that a list of all images is never held."""

    def __init__(self, on_image: Callable[[Image.Image], Any]) -> None:
        self._on_image = on_image

    def __getitem__(self, source: Source) -> NDArray[Any] | str:
        try:
            image = decode(source)
        except UnreadableImageError as error:
            return str(error)
        return np.asarray(self._on_image(image))


def _collated(found: Sequence[NDArray[Any] | str]) -> Decoded:
    """Numbers of numpy go through a pipe; tensors would need shared memory, of which a container often has 64 MB."""
    readable = [pixels for pixels in found if not isinstance(pixels, str)]
    reasons = {position: reason for position, reason in enumerate(found) if isinstance(reason, str)}
    return Decoded(np.stack(readable) if readable else np.empty(0), reasons)


def _context() -> BaseContext:
    """Processes are forked from a server that has imported what they need and never had threads or a GPU.

    A fork of this process may stand still at a lock that one of its threads held (OpenMP, the writer of the cache), and
    must not follow the start of CUDA; a spawned one would import torch anew, for seconds and 300 MB each.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "open_clip"])
    return context


def make_ready(workers: int) -> None:
    """Start the server of the workers, if there will be any: it imports, for seconds, while the model is loaded."""
    if workers:
        _context()
        forkserver.ensure_running()


def _end_with_parent(_: int) -> None:
    """Workers hold a pipe that keeps their server going, and that keeps them going: a killed parent would leave all."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _end_together(batches: Any) -> None:
    """If one worker is killed, end all, so that their pipe ends.

    One that is killed while it hands on a batch leaves half of it in the pipe, and a lock: the others would wait for
    the lock, and this process for the other half, for ever.
    """
    workers = batches._workers
    batches._worker_result_queue._writer.close()  # a pipe ends when nobody can write to it any more

    def watch() -> None:
        ended = connection.wait([worker.sentinel for worker in workers])
        for worker in workers:
            if worker.sentinel not in ended:
                worker.kill()

    threading.Thread(target=watch, daemon=True).start()


def _has_ended(batches: Any) -> bool:
    """Whether a worker has; its pipe may have ended a moment before it counts as ended."""
    return bool(connection.wait([worker.sentinel for worker in batches._workers], timeout=2))


def decode_batches(
    sources: Iterable[list[Source]], on_image: Callable[[Image.Image], Any], workers: int
) -> Iterator[Decoded]:
    """Decode batch after batch, in order; with workers, at most two batches each are taken from ``sources`` ahead.

    Args:
        sources: batches of what ``decode`` takes.
        on_image: an image -> an array or CPU tensor, all of one shape; with workers it must be picklable.
        workers: the number of processes; with 0 this one decodes, when it is asked for the next batch.

    Raises:
        UserError: a worker was ended from outside, most likely as memory ran out.
    """
    options: dict[str, Any] = {"multiprocessing_context": _context(), "prefetch_factor": _AHEAD} if workers else {}
    loader: DataLoader[Any] = DataLoader(
        _Decoding(on_image),
        batch_sampler=sources,
        num_workers=workers,
        collate_fn=_collated,
        worker_init_fn=_end_with_parent,
        **options,
    )
    mend = "set features.workers or features.batch_size lower, or give the job more memory"
    batches = iter(loader)
    if workers:
        _end_together(batches)
    try:
        yield from batches
    except MemoryError:
        raise UserError(f"memory ran out while images were decoded; {mend}") from None
    except (EOFError, OSError, RuntimeError):
        if not workers or not _has_ended(batches):
            raise
        raise UserError(
            f"a process that decodes images was ended from outside, most likely as memory ran out; {mend}"
        ) from None
