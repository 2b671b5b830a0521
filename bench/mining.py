"""How fast labels are mined from short captions, beside one regular expression per class. `python bench/mining.py`

Both sides run in one go on the same captions: those of the COCO sample where it is there, else template captions. A
regular expression of a class has its phrases and all longer phrases of the label set that contain one of them, the
longest first. It knows no contexts ("orange (shirt)"), so for the comparison phrases with contexts are left out on both
sides; the last column is the speed with everything. CPU seconds of one core, the better of two runs.
"""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from t2ipal.labels import LabelSet, normalise, shipped
from t2ipal.labels.files import LabelFile

CAPTIONS = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco" / "coco_30k_captions.csv"
REQUIRED = 50_000
AGREEMENT = 0.995


def captions() -> list[str]:
    """Captions of the COCO sample, or as many template captions."""
    if CAPTIONS.is_file():
        with CAPTIONS.open(encoding="utf-8", newline="") as handle:
            return [row["prompt"] for row in csv.DictReader(handle)]
    names = LabelSet.load("coco").names
    pairs = list(zip(names, names[1:] + names[:1], strict=True))
    return [f"A photo of a {one} next to a {other}, number {number}." for number in range(375) for one, other in pairs]


def without_contexts(labels: LabelSet) -> LabelSet:
    """The label set without the phrases that have a context."""

    def plain(phrases: Iterable[str]) -> list[str]:
        return [phrase for phrase in phrases if "(" not in phrase]

    values = labels.file.model_dump()
    for words in values["classes"].values():
        words["kinds"], words["exclusions"] = plain(words["kinds"]), plain(words["exclusions"])
        words["plurals"] = {}
    return LabelSet(LabelFile.model_validate(values), f"{labels.origin} without contexts")


class Expressions:
    """The straightforward way: each class searches the text for itself."""

    def __init__(self, labels: LabelSet) -> None:
        entries = [(" ".join(entry.pattern.words), entry.labels) for entry in labels.entries()]
        meant = {name: {name} for name in labels.names}
        for name in labels.names:
            for implied in labels.implied(name):
                meant[implied].add(name)
        self.classes = {
            name: (self._expression(entries, wanted), wanted, dict(entries)) for name, wanted in meant.items()
        }

    @staticmethod
    def _expression(entries: Sequence[tuple[str, tuple[str, ...]]], wanted: set[str]) -> re.Pattern[str]:
        own = {phrase for phrase, names in entries if wanted & set(names)}
        parts = re.compile(rf"\b(?:{'|'.join(map(re.escape, own))})\b")
        phrases = {phrase for phrase, _ in entries if phrase in own or parts.search(phrase)}
        longest_first = sorted(phrases, key=lambda phrase: (-phrase.count(" "), -len(phrase), phrase))
        return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b")

    def labels(self, text: str) -> tuple[str, ...]:
        """The classes that ``text`` mentions."""
        text = " ".join(normalise(text))
        return tuple(
            name
            for name, (expression, wanted, meaning) in self.classes.items()
            if any(wanted.intersection(meaning[found]) for found in expression.findall(text))
        )


def rate(mine: Callable[[str], object], texts: Sequence[str]) -> float:
    """Texts per second of CPU time."""
    seconds = []
    for _ in range(2):
        start = time.process_time()
        for text in texts:
            mine(text)
        seconds.append(time.process_time() - start)
    return len(texts) / min(seconds)


def main() -> None:
    """Print the table; fail if it is too slow, or if the two sides disagree."""
    texts = captions()
    few = texts[:: max(1, len(texts) // 2000)]
    print(f"{len(texts)} captions, captions per second of one core")
    print(f"{'label set':10s} {'expressions':>12s} {'ours':>9s} {'ratio':>7s} {'agree':>8s} {'ours, all':>10s}")
    for name in shipped():
        everything = LabelSet.load(name)
        labels = without_contexts(everything)
        expressions = Expressions(labels)
        agree = sum(expressions.labels(text) == labels.labels(text) for text in few) / len(few)
        theirs, ours, full = rate(expressions.labels, few), rate(labels.mine, texts), rate(everything.mine, texts)
        print(f"{name:10s} {theirs:12.0f} {ours:9.0f} {ours / theirs:6.0f}x {agree:8.2%} {full:10.0f}")
        if full < REQUIRED or agree < AGREEMENT:
            raise SystemExit(f"{name}: too slow, or the two sides disagree")


if __name__ == "__main__":
    main()
