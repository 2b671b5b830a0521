"""The sequence of captions: whose turn it is, which class leads, and who stands in where a source has nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from t2ipal.captions.caption import Caption, Register, Slot, Source
from t2ipal.errors import UserError
from t2ipal.labels import LabelSet


@dataclass(frozen=True)
class Balance:
    """How many captions there are and whom they serve; the keys of ``captions`` of the same names.

    ``weights`` are relative; ``limits`` are the most captions of each source, where counts were configured.
    """

    total: int
    weights: Mapping[str, float]
    limits: Mapping[str, int] = field(default_factory=dict)
    floor: int | None = None
    cap: int | None = None


class Entry(NamedTuple):
    """A caption, and for which source and class it stands in, if it does."""

    caption: Caption
    stands_in: tuple[str, str] | None = None


@dataclass(frozen=True)
class Mixture:
    """The captions in their order, with the stand-ins among them marked."""

    entries: tuple[Entry, ...]

    @property
    def captions(self) -> list[Caption]:
        """The captions alone."""
        return [entry.caption for entry in self.entries]

    @property
    def topped_up(self) -> dict[str, Counter[str]]:
        """How often a template stands in, by source and by the class that the source lacked."""
        counts: dict[str, Counter[str]] = {}
        for entry in self.entries:
            if entry.stands_in is not None:
                source, name = entry.stands_in
                counts.setdefault(source, Counter())[name] += 1
        return counts


class _Capped:
    """A register that refuses texts which would name a class more than ``cap`` times, and counts what they name."""

    def __init__(self, register: Register, labels: LabelSet, cap: int, mentions: Counter[str]) -> None:
        self.register, self.labels, self.cap, self.mentions = register, labels, cap, mentions

    def admit(self, text: str) -> bool:
        found = self.labels.labels(text)
        if any(self.mentions[name] >= self.cap for name in found) or not self.register.admit(text):
            return False
        self.mentions.update(found)
        return True


def compose(
    labels: LabelSet,
    balance: Balance,
    sources: Mapping[str, Source],
    registers: Mapping[str, Register],
    rng: np.random.Generator,
) -> Mixture:
    """``balance.total`` captions, made round by round: in a round every class leads one caption, in random order.

    The sources share the slots of a round by weight, each as far behind as the others. A slot that its source
    cannot fill is filled by ``sources["template"]``. With a cap, classes that have it lead no more, and the rarest
    class goes first (TaI-DPT's recipe for NUS-WIDE); after ``floor`` rounds a corpus is taken as it comes.

    Whole rounds are made and the last one is cut: a higher total gives the same captions and more behind them.

    Raises:
        UserError: so many distinct captions cannot be made, or the cap does not allow them.
    """
    entries: list[Entry] = []
    given, mentions = Counter[str](), Counter[str]()
    if balance.cap is not None:
        registers = {name: _Capped(found, labels, balance.cap, mentions) for name, found in registers.items()}
    for number, order in enumerate(_rounds(labels, balance, mentions, rng)):
        slots = [Slot(given.total() + index, name) for index, name in enumerate(order)]
        shares = _share(slots, balance, given, free=balance.floor is not None and number >= balance.floor)
        entries += _fill(shares, sources, registers, balance.cap, mentions)
        if len(entries) >= balance.total:
            break
    return Mixture(tuple(entries[: balance.total]))


def _rounds(
    labels: LabelSet, balance: Balance, mentions: Mapping[str, int], rng: np.random.Generator
) -> Iterator[list[str]]:
    """The leading classes of one round after the other."""
    made = 0
    while True:
        order = [labels.names[int(index)] for index in rng.permutation(len(labels.names))]
        if balance.cap is not None:
            order = sorted((n for n in order if mentions.get(n, 0) < balance.cap), key=lambda n: mentions.get(n, 0))
        if not order:
            raise UserError(
                f"captions.cap: after {made} captions all {len(labels.names)} classes are named {balance.cap} times; "
                f"raise captions.cap or lower captions.total ({balance.total})"
            )
        made += len(order)
        yield order


def _share(slots: Sequence[Slot], balance: Balance, given: Counter[str], free: bool) -> list[tuple[str, Slot]]:
    """The source of each slot: the one that is furthest behind its weight and below its limit."""
    whole = sum(balance.weights.values())
    shares = []
    for slot in slots:
        open_ = [name for name in balance.weights if given[name] < balance.limits.get(name, given[name] + 1)]
        # Beyond the limits only the rest of the last round is made, which is cut.
        name = max(open_ or balance.weights, key=lambda n: balance.weights[n] / whole * (given.total() + 1) - given[n])
        given[name] += 1
        shares.append((name, Slot(slot.number, None) if free and name == "corpus" else slot))
    return shares


def _fill(
    shares: Sequence[tuple[str, Slot]],
    sources: Mapping[str, Source],
    registers: Mapping[str, Register],
    cap: int | None,
    mentions: Mapping[str, int],
) -> list[Entry]:
    """The captions of a round in the order of its slots; a slot whose class has reached the cap meanwhile has none."""
    served: dict[int, Entry] = {}
    for name in dict.fromkeys(name for name, _ in shares):
        mine = [slot for owner, slot in shares if owner == name]
        for slot, caption in zip(mine, sources[name].serve(mine, registers[name]), strict=True):
            if caption is not None:
                served[slot.number] = Entry(caption)
        for slot in mine:
            if slot.number not in served and (cap is None or slot.lead is None or mentions.get(slot.lead, 0) < cap):
                served[slot.number] = _stand_in(name, slot, sources["template"], registers["template"])
    return [served[slot.number] for _, slot in shares if slot.number in served]


def _stand_in(name: str, slot: Slot, template: Source, register: Register) -> Entry:
    caption = template.serve([slot], register)[0] if name != template.name else None
    if caption is None:
        raise UserError(
            f"captions.total: so many distinct captions cannot be made, found no new one for class "
            f"'{slot.lead or 'any'}' after {slot.number}; lower captions.total, raise captions.max_classes, give the "
            f"class more synonyms or add a source"
        )
    return Entry(caption, (name, slot.lead or "any"))
