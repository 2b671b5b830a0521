"""Source ``llm``: captions that a language model writes when it is asked for given classes."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from t2ipal.captions.answers import Answer, Answers, Request
from t2ipal.captions.caption import Caption, Register, Slot, mined
from t2ipal.captions.cleaning import clean
from t2ipal.captions.companions import Companions
from t2ipal.captions.templates import enumerate_words
from t2ipal.labels import LabelSet
from t2ipal.progress import Progress
from t2ipal.settings import LlmSettings

RUBBISH, NO_CLASS, LACKS_LEAD, DUPLICATE = "rubbish", "no class", "lacks the lead", "near-duplicate"


class Model(Protocol):
    """What answers requests: a model in this process, or a server."""

    @property
    def identity(self) -> str:
        """Which model it is, as part of requests."""

    def prepare(self) -> None:
        """Do what takes time before the first answer; once is enough."""

    def answer(self, requests: Sequence[Request], keep: Callable[[Request, Answer], None]) -> None:
        """Call ``keep`` once for every request, as soon as its answer is there."""


@dataclass
class _Tally:
    """What became of the requests that a class led."""

    asked: int = 0
    kept: int = 0
    exact: int = 0
    lead: int = 0
    from_spare: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: _Tally) -> _Tally:
        return _Tally(
            self.asked + other.asked,
            self.kept + other.kept,
            self.exact + other.exact,
            self.lead + other.lead,
            self.from_spare + other.from_spare,
            self.dropped + other.dropped,
        )

    def counts(self) -> dict[str, Any]:
        """All numbers, as JSON."""
        return {
            "asked": self.asked,
            "kept": self.kept,
            "from_spare": self.from_spare,
            "dropped": dict(sorted(self.dropped.items())),
            **self.shares(),
        }

    def shares(self) -> dict[str, float | None]:
        """Shares of the answers that mention exactly the requested classes, and the leading one."""
        return {name: getattr(self, name) / self.asked if self.asked else None for name in ("exact", "lead")}


class LlmSource:
    """Asks for captions of drawn classes, all open slots of a round together, and keeps what its text bears out.

    An answer that mentions classes but not the one of its slot is spared: it may serve a slot of one of its classes
    in a later round.
    """

    name = "llm"

    def __init__(self, labels: LabelSet, settings: LlmSettings, companions: Companions, seed: int) -> None:
        """Open the cache; the model itself is loaded or called when the cache lacks an answer.

        Raises:
            UserError: the cache is damaged or none of ours, a local model is not there, or the address is none.
        """
        self.labels, self.settings, self.companions, self.seed = labels, settings, companions, seed
        self.model = open_model(settings)
        self.answers = Answers(Path(settings.cache))
        self.spare: dict[str, deque[Caption]] = {name: deque() for name in labels.names}
        self.tallies = {name: _Tally() for name in labels.names}
        self.hits = self.unserved = 0
        self.seconds = 0.0
        self.progress: Progress | None = None

    def serve(self, slots: Sequence[Slot], taken: Register) -> list[Caption | None]:
        """One caption for each slot; None where ``captions.llm.attempts`` answers did not do.

        Raises:
            UserError: the model cannot be loaded or reached, or the cache cannot be written to. What was answered
                until then is kept.
        """
        served = {slot.number: self._spared(slot, taken) for slot in slots}
        spare: list[Caption] = []
        for attempt in range(self.settings.attempts):
            pending = [slot for slot in slots if served[slot.number] is None]
            asked = [self._request(slot, attempt) for slot in pending]
            texts = self._ask([request for request, _ in asked])
            for slot, (_, requested), text in zip(pending, asked, texts, strict=True):
                caption = mined(self.labels, text, self.name, requested)
                reason = _objection(slot, caption, taken)
                self._count(caption, reason)
                if reason is None:
                    served[slot.number] = caption
                elif reason == LACKS_LEAD:
                    spare.append(caption)
        for caption in spare:
            for label in caption.labels:
                self.spare[label].append(caption)
        self.unserved += sum(caption is None for caption in served.values())
        return [served[slot.number] for slot in slots]

    def facts(self) -> dict[str, Any]:
        """What was asked of which model, how far answers and requests agree, and why answers were dropped."""
        if self.progress is not None:
            self.progress.close()
            self.progress = None
        whole = sum(self.tallies.values(), _Tally())
        return {
            "model": self.settings.model,
            "model_identity": self.model.identity,
            "cache_hits": self.hits,
            "seconds": round(self.seconds, 3),
            "unserved": self.unserved,
            "answers": whole.counts(),
            "answers_per_class": {name: tally.counts() for name, tally in self.tallies.items()},
        }

    def _spared(self, slot: Slot, taken: Register) -> Caption | None:
        """The first spare caption of an earlier round that mentions the slot's class and is still new."""
        queue = self.spare[slot.lead] if slot.lead is not None else deque[Caption]()
        while queue:
            caption = queue.popleft()
            if taken.admit(caption.text):
                self.tallies[slot.lead or ""].from_spare += 1
                return caption
        return None

    def _request(self, slot: Slot, attempt: int) -> tuple[Request, tuple[str, ...]]:
        """The request for a slot, and the classes that it names. It depends on seed, slot and attempt alone."""
        rng = np.random.default_rng([self.seed, slot.number, attempt])
        lead = slot.leading(self.labels.names, rng)
        requested = self.companions.draw(rng, lead)
        words = enumerate_words([self.labels.prompt_name(name) for name in requested])
        settings, seed = self.settings, int(rng.integers(2**31))
        request = Request(
            model=self.model.identity,
            system=settings.system,
            prompt=settings.prompt.replace("{classes}", words),
            temperature=settings.temperature,
            top_p=settings.top_p,
            max_tokens=settings.max_tokens,
            seed=seed if settings.temperature else 0,  # the likeliest words do not depend on it
        )
        return request, requested

    def _ask(self, requests: Sequence[Request]) -> list[str]:
        """The cleaned answers, from the cache where it has them."""
        known = {request.key: self.answers.find(request) for request in requests}
        missing = {request.key: request for request in requests if known[request.key] is None}
        self.hits += sum(request.key not in missing for request in requests)
        if missing:
            self._answer(list(missing.values()))
            # What is on file counts: another process may have been first.
            known |= {key: self.answers.find(request) for key, request in missing.items()}
        return [clean(answer.text, answer.finished) for answer in (known[r.key] for r in requests) if answer]

    def _answer(self, requests: Sequence[Request]) -> None:
        self.model.prepare()
        if self.progress is None:
            name = self.settings.gguf or self.settings.model
            self.progress = Progress(f"asking {name.rpartition('/')[2]}", 0, "answers")
        progress, started = self.progress, time.monotonic()
        progress.extend(len(requests))

        def keep(request: Request, answer: Answer) -> None:
            self.answers.keep(request, answer)
            progress.advance(1)

        try:
            self.model.answer(requests, keep)
        finally:
            self.seconds += time.monotonic() - started

    def _count(self, caption: Caption, reason: str | None) -> None:
        tally = self.tallies[caption.requested[0]]
        tally.asked += 1
        tally.exact += set(caption.requested) == set(caption.labels)
        tally.lead += caption.requested[0] in caption.labels
        if reason is None:
            tally.kept += 1
        else:
            tally.dropped[reason] += 1


def open_model(settings: LlmSettings) -> Model:
    """The model or server that answers; what can be checked without loading it is.

    Raises:
        UserError: names the config key and what is wrong.
    """
    if settings.url is not None:
        from t2ipal.captions.server import Server

        return Server(settings)
    from t2ipal.captions.local_model import LocalModel

    return LocalModel(settings)


def _objection(slot: Slot, caption: Caption, taken: Register) -> str | None:
    """Why a caption does not serve the slot; None if it does, and then it is taken."""
    if not caption.text:
        return RUBBISH
    if not caption.labels:
        return NO_CLASS
    if slot.lead is not None and slot.lead not in caption.labels:
        return LACKS_LEAD
    return None if taken.admit(caption.text) else DUPLICATE
