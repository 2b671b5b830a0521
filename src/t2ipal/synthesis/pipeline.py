"""Batches of images drawn so that the denoiser never waits: all else happens on threads of its own meanwhile.

The calling thread denoises. One thread ahead of it embeds the next batch's prompts; one behind it decodes, judges,
encodes and writes the batches in their order. Images that the gate refuses are denoised again on the calling thread,
between two batches, before anything later is written.

Where denoising takes every core of the CPU, the networks that embed and decode would only get in its way: two of them
at a time, each with a thread per core, are slower than one after the other. There the calling thread runs them all.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from functools import partial
from types import TracebackType
from typing import Protocol, Self

from t2ipal.synthesis.encoding import Encoded, encoded
from t2ipal.synthesis.families import Condition, Latents
from t2ipal.synthesis.gate import FloatImage, Gate
from t2ipal.synthesis.plan import Sample

# Batches that may be denoised but not yet written when the next one is begun: what a power cut costs beside it.
DEPTH = 1
# PNG of 512 x 512 pixels takes a tenth of a second, and a data-centre GPU draws ten a second and more.
MAX_ENCODERS = 8

Write = Callable[[Sequence[Sample], Sequence[Encoded]], None]
# Images, and which of them a safety checker blanked.
Pictures = tuple[list[FloatImage], list[bool]]


class Model(Protocol):
    """What ``draw_batches`` asks of a generator."""

    @property
    def spare_cores(self) -> int:
        """How many cores of the CPU denoising leaves free."""

    def condition(self, prompts: list[str]) -> Condition:
        """What the denoiser is told of each prompt."""

    def denoise(
        self, condition: Condition, seeds: list[int], between_steps: Callable[[], None] | None = None
    ) -> Latents:
        """Denoise one image per seed, together."""

    def decode(self, latents: Latents) -> Pictures:
        """Images, and which of them a safety checker blanked."""


class _BrokenOffError(Exception):
    """Denoising is pointless: the thread behind it has failed."""


class _Redraw:
    """A request of the thread behind to the denoising one."""

    def __init__(self, prompts: list[str], seeds: list[int]) -> None:
        self.prompts, self.seeds = prompts, seeds
        self.answer: Future[Callable[[], Pictures]] = Future()


class _Finisher:
    """The thread behind the denoiser. Once a batch has failed it finishes no other."""

    def __init__(self, model: Model, write: Write, image_format: str) -> None:
        self.model, self.write, self.image_format = model, write, image_format
        self._thread = ThreadPoolExecutor(1, "t2ipal-finish")
        self._encoders = ThreadPoolExecutor(min(MAX_ENCODERS, max(1, model.spare_cores)), "t2ipal-encode")
        self._under_way: deque[Future[None]] = deque()
        # Redraws that are asked for; None for a batch that is done.
        self._events: queue.SimpleQueue[_Redraw | None] = queue.SimpleQueue()
        self._failed = self._left = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while self._under_way:
                self._settle_one(serve=False)
        finally:
            self._left = True
            self._thread.shutdown()
            self._encoders.shutdown()

    def submit(self, gate: Gate, latents: Latents) -> None:
        """Finish a batch when those before it are finished."""
        future = self._thread.submit(self._finish, gate, self._decoding(latents))
        self._under_way.append(future)
        future.add_done_callback(lambda _: self._events.put(None))

    def _decoding(self, latents: Latents) -> Callable[[], Pictures]:
        """How the thread behind gets the images: it decodes them, or is handed them."""
        if self.model.spare_cores:
            return partial(self.model.decode, latents)
        pictures = self.model.decode(latents)
        return lambda: pictures

    def settle(self, limit: int) -> None:
        """Denoise what is asked for again, until at most ``limit`` batches are under way.

        Raises:
            BaseException: what went wrong with a batch.
        """
        while len(self._under_way) > limit or not self._events.empty():
            self._settle_one(serve=True)

    def _settle_one(self, serve: bool) -> None:
        event = self._events.get()
        if event is None:
            error = self._under_way.popleft().exception()
            if error is not None and serve:
                raise error
        elif serve:
            self._redraw(event)
        else:
            event.answer.set_exception(CancelledError())

    def _redraw(self, wanted: _Redraw) -> None:
        try:
            decode = self._decoding(self.model.denoise(self.model.condition(wanted.prompts), wanted.seeds))
        except BaseException:
            wanted.answer.set_exception(CancelledError())
            raise
        wanted.answer.set_result(decode)

    def check(self) -> None:
        """Break off the denoising of a batch that could not be written.

        Raises:
            _BrokenOffError: this thread has failed.
        """
        if self._failed:
            raise _BrokenOffError

    def _finish(self, gate: Gate, decode: Callable[[], Pictures]) -> None:
        if self._failed:
            raise CancelledError
        try:
            gate.judge(*decode())
            while gate.pending:
                gate.judge(*self._drawn_again(gate)())
            files = list(self._encoders.map(lambda drawn: encoded(drawn, self.image_format), gate.drawn()))
            self.write(gate.samples, files)
        except BaseException:
            self._failed = True
            raise

    def _drawn_again(self, gate: Gate) -> Callable[[], Pictures]:
        redraw = _Redraw(*gate.request())
        self._events.put(redraw)
        # Nobody answers when the denoising thread was interrupted in its clearing up.
        while not redraw.answer.done() and not self._left:
            wait([redraw.answer], timeout=1)
        if not redraw.answer.done():
            raise CancelledError
        return redraw.answer.result()


def draw_batches(
    model: Model,
    batches: Iterable[Sequence[Sample]],
    base_seed: int,
    redraws: int,
    write: Write,
    stop: Callable[[], bool],
    image_format: str,
) -> None:
    """Draw ``batches`` in their order and hand each one, finished, to ``write``.

    When this returns or raises, whatever was denoised completely is written, or could not be. When a batch is begun, at
    most one before it is not written yet.

    Args:
        model: a loaded ``Generator``.
        batches: samples that are denoised together; one batch is taken from here ahead of need.
        base_seed: of the seeds of all images.
        redraws: how often an image that the gate refuses is drawn again.
        write: takes samples and their files; called in order, from one thread that is not this one.
        stop: asked before each batch; once it says true, no batch is begun, and those under way are finished.
        image_format: png or webp.

    Raises:
        UserError: the model refuses the settings, or the GPU's memory is too small for one image.
        BaseException: what ``write`` raised; the denoising stops after the step in which it did.
    """
    coming = iter(batches)
    with ThreadPoolExecutor(1, "t2ipal-ahead") as ahead, _Finisher(model, write, image_format) as finisher:

        def begin() -> tuple[Gate, list[int], Callable[[], Condition]] | None:
            batch = next(coming, None)
            if batch is None:
                return None
            gate = Gate(batch, base_seed, redraws)
            prompts, seeds = gate.request()
            if not model.spare_cores:
                return gate, seeds, partial(model.condition, prompts)
            return gate, seeds, ahead.submit(model.condition, prompts).result

        current = begin()
        while current is not None:
            finisher.settle(DEPTH)
            if stop():
                break
            gate, seeds, condition = current
            ready = condition()
            current = begin()
            try:
                latents = model.denoise(ready, seeds, finisher.check)
            except _BrokenOffError:
                break
            finisher.submit(gate, latents)
        finisher.settle(0)
