"""The source `corpus`: captions that people wrote, in a random order that does not depend on that of the files."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from t2ipal.captions.caption import Caption, Register, Slot, mined
from t2ipal.captions.corpora import Tally, find, read
from t2ipal.captions.duplicates import normalised
from t2ipal.captions.leaks import LeakCheck
from t2ipal.labels import LabelSet
from t2ipal.settings import CorpusSettings

PRIORITIES = 1 << 64


class Entry(NamedTuple):
    """A caption and its place in the random order; two captions that are the same have the same place."""

    priority: int
    text: str


def priority(seed: int, text: str) -> int:
    """A number below 2^64 that is random in ``seed`` and the normalised text, and depends on nothing else."""
    key = f"{seed} {normalised(text)}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest())


class Pool:
    """Of all captions that it is offered, the ``size`` distinct ones of smallest priority."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._entries: list[Entry] = []
        self._limit = PRIORITIES
        self._room = size + max(size // 4, 64)

    def offer(self, entry: Entry) -> None:
        """Keep ``entry`` if it belongs here; of two texts of the same priority the first by code points stays."""
        if entry.priority <= self._limit:
            self._entries.append(entry)
            if len(self._entries) > self._room:
                self._settle()

    def entries(self) -> list[Entry]:
        """What is kept, by priority."""
        self._settle()
        return self._entries

    def distinct(self) -> tuple[int, bool]:
        """How many distinct captions were offered, and whether that is an estimate.

        The estimate is from how densely the smallest priorities lie, with a relative standard error of
        1 / sqrt(size - 2) (k minimum values; Bar-Yossef et al., RANDOM 2002; Beyer et al., SIGMOD 2007).
        """
        self._settle()
        if len(self._entries) < self.size:
            return len(self._entries), False
        return max(self.size, round((self.size - 1) * PRIORITIES / (self._limit + 1))), True

    def _settle(self) -> None:
        self._entries.sort()
        last, kept = -1, []
        for entry in self._entries:
            if entry.priority != last:
                kept.append(entry)
                last = entry.priority
        self._entries = kept[: self.size]
        if len(self._entries) == self.size:
            self._limit = self._entries[-1].priority


class CorpusSource:
    """Serves the captions of ``captions.corpus.files``, which are read once, at the first call of `serve`.

    Kept are, for each class, the ``captions.corpus.pool`` captions of smallest `priority` that mention it, and of all
    captions with a class as many as these together (reconstruction). So memory does not grow with the files.
    """

    name = "corpus"

    def __init__(self, labels: LabelSet, settings: CorpusSettings, seed: int) -> None:
        """Find the files and read the ids of evaluation images.

        Raises:
            UserError: a file is missing, or one of ids cannot be used.
        """
        self.labels, self.settings, self.seed = labels, settings, seed
        self.paths = find(settings.files)
        self.leaks = LeakCheck(settings)
        self.tally = Tally(settings.malformed)
        self.pools: dict[str | None, Pool] = {name: Pool(settings.pool) for name in labels.names}
        self.pools[None] = Pool(settings.pool * len(labels.names))
        self.captions: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        self._seen: set[int] = set()
        self._queues: dict[str | None, Iterator[Entry]] = {}

    def serve(self, slots: Sequence[Slot], taken: Register) -> list[Caption | None]:
        """For each slot the next caption with its leading class, or with any class, that ``taken`` admits.

        Raises:
            UserError: a file cannot be read, or holds captions of evaluation images.
        """
        if not self._queues:
            self._read()
            self._queues = {lead: iter(pool.entries()) for lead, pool in self.pools.items()}
        return [self._next(slot.lead, taken) for slot in slots]

    def _read(self) -> None:
        for line in read(self.paths, self.settings, self.tally):
            self.leaks.see(line)
            words = line.text.split()
            if len(words) > self.settings.longest:
                self.captions["too_long"] += 1
                continue
            text = " ".join(words)
            found = self.labels.labels(text)
            if not found:
                self.captions["without_class"] += 1
                continue
            self.captions["with_class"] += 1
            entry = Entry(priority(self.seed, text), text)
            for name in (None, *found):
                self.pools[name].offer(entry)
        self.leaks.judge()

    def _next(self, lead: str | None, taken: Register) -> Caption | None:
        # What is refused once is refused for ever: registers only grow. So no queue looks back.
        for entry in self._queues[lead]:
            if entry.priority in self._seen:
                continue
            self._seen.add(entry.priority)
            if taken.admit(entry.text):
                caption = mined(self.labels, entry.text, self.name)
                self.served.update(caption.labels)
                return caption
        return None

    def facts(self) -> dict[str, Any]:
        """The files, what of them could be used, the leak check, and the captions of each class.

        ``distinct`` captions of a class are those that differ after normalisation, an estimate where ``estimated``;
        ``served`` are the captions from here that mention it.
        """
        distinct, estimated = self.pools[None].distinct()
        return {
            "files": self.tally.files,
            "lines": self.tally.lines,
            "malformed": self.tally.malformed,
            "malformed_places": self.tally.places,
            "too_long": self.captions["too_long"],
            "without_class": self.captions["without_class"],
            "with_class": self.captions["with_class"],
            "duplicates": max(self.captions["with_class"] - distinct, 0),
            "estimated": estimated,
            "evaluation_images": self.leaks.facts(),
            "available": {name: self._class_facts(name) for name in self.labels.names},
        }

    def _class_facts(self, name: str) -> dict[str, Any]:
        distinct, estimated = self.pools[name].distinct()
        return {"distinct": distinct, "estimated": estimated, "served": self.served[name]}
