"""How fast captions are taken from a corpus, and in how much memory. `python bench/corpus.py`

A generated COCO captions file goes through both ways to the same end, captions by class, each way in a process of its
own. Naive: `json.load`, one regular expression for the words of each class, all captions kept by class. Ours:
`CorpusSource`, which streams the file, mines all classes at once, and keeps a bounded pool for each class. Peak memory
is VmHWM less that of the imports. The share of captions on whose classes both agree is printed too: the naive way knows
no exclusions and derives no plurals but in -s and -es.

Then the captions go through the register of taken texts, exactly and by nearness. They are hard for the latter, as they
are made of few words.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from t2ipal.captions.caption import Slot
from t2ipal.captions.corpus import CorpusSource
from t2ipal.captions.duplicates import Taken
from t2ipal.labels import LabelSet
from t2ipal.settings import CorpusSettings

LOOKS = (
    "small", "large", "old", "young", "red", "blue", "green", "striped", "wet", "dirty", "shiny", "broken", "empty",
    "quiet", "busy", "bright",
)  # fmt: skip
OTHERS = (
    "wall", "fence", "hill", "shadow", "sign", "rope", "ladder", "bucket", "blanket", "crowd", "market", "mountain",
    "river", "garden", "stone", "roof",
)  # fmt: skip
VERBS = ("stands", "lies", "waits", "rests", "shows", "appears", "leans", "sits", "remains", "is")
PLACES = (
    "in a field", "on the street", "at the beach", "in the kitchen", "under a bridge", "by the lake", "at night",
    "in the snow",
)  # fmt: skip


def arguments() -> argparse.Namespace:
    """The sizes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--captions", type=int, default=60_000)
    parser.add_argument("--labels", default="coco", help="label set")
    parser.add_argument("--pool", type=int, default=CorpusSettings().pool, help="captions kept per class")
    parser.add_argument("--texts", type=int, default=30_000, help="captions that the register is asked about")
    parser.add_argument("--side", choices=["naive", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def sentences(labels: LabelSet, count: int) -> Iterator[str]:
    """Captions of 8 to 16 words; each noun names a class in half of the cases."""
    rng, names = random.Random(0), [labels.prompt_name(name) for name in labels.names]
    for number in range(count):
        nouns = [rng.choice(names if rng.random() < 0.5 else OTHERS) for _ in range(3)]
        yield (
            f"A {rng.choice(LOOKS)} {nouns[0]} {rng.choice(VERBS)} {rng.choice(PLACES)} next to a {rng.choice(LOOKS)} "
            f"{nouns[1]} and {number % 97} {nouns[2]}."
        )


def write(path: Path, labels: LabelSet, count: int) -> None:
    """A COCO captions file, five captions an image."""
    annotations = [{"image_id": n // 5, "id": n, "caption": text} for n, text in enumerate(sentences(labels, count))]
    images = [{"id": number, "file_name": f"{number:012}.jpg"} for number in range(-(-count // 5))]
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations}), encoding="utf-8")


def patterns(labels: LabelSet) -> dict[str, re.Pattern[str]]:
    """A regular expression for the words of each class."""
    found = {}
    for name in labels.names:
        words = (labels.prompt_name(name), *labels.synonyms[name], *labels.kinds[name])
        found[name] = re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})(?:s|es)?\b", re.IGNORECASE)
    return found


def naive(path: Path, labels: LabelSet) -> list[str]:
    """The captions that a random order puts first, one for each class."""
    expressions = patterns(labels)
    with path.open(encoding="utf-8") as file:
        captions = [annotation["caption"] for annotation in json.load(file)["annotations"]]
    by_class: dict[str, list[str]] = {name: [] for name in labels.names}
    for text in captions:
        for name, pattern in expressions.items():
            if pattern.search(text):
                by_class[name].append(text)
    rng = random.Random(0)
    return [rng.choice(texts) for texts in by_class.values() if texts]


def ours(path: Path, labels: LabelSet, pool: int) -> list[str]:
    """The same from `CorpusSource`."""
    source = CorpusSource(labels, CorpusSettings(files=(str(path),), pool=pool), seed=0)
    captions = source.serve([Slot(number, name) for number, name in enumerate(labels.names)], Taken())
    return [caption.text for caption in captions if caption is not None]


def peak() -> int:
    """Bytes of the largest resident size so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def side(options: argparse.Namespace, labels: LabelSet) -> None:
    """Go one way and print its seconds, its memory and how many captions it found."""
    before, start = peak(), time.perf_counter()
    texts = naive(options.file, labels) if options.side == "naive" else ours(options.file, labels, options.pool)
    result = {"seconds": time.perf_counter() - start, "peak": peak() - before, "classes": len(texts)}
    print(json.dumps(result))


def agreement(labels: LabelSet) -> float:
    """Share of captions to which both ways give the same classes."""
    texts, expressions = list(sentences(labels, 2000)), patterns(labels)
    found = [{name for name, pattern in expressions.items() if pattern.search(text)} for text in texts]
    return sum(one == set(labels.labels(text)) for one, text in zip(found, texts, strict=True)) / len(texts)


def compare(options: argparse.Namespace, labels: LabelSet, path: Path) -> None:
    """Both ways, one after the other."""
    megabytes, results = path.stat().st_size / 1e6, {}
    print(f"{options.captions} captions, {megabytes:.0f} MB, {len(labels.names)} classes, one core")
    for name in ("naive", "ours"):
        command = [sys.executable, __file__, "--side", name, "--file", str(path), "--labels", options.labels]
        command += ["--pool", str(options.pool)]
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        results[name] = result = json.loads(told)
        if result["classes"] != len(labels.names):
            raise SystemExit(f"{name} found captions for {result['classes']} of {len(labels.names)} classes")
        seconds, memory = result["seconds"], result["peak"] / 1e6
        print(
            f"{name:6s} {options.captions / seconds:9.0f} captions/s {megabytes / seconds:7.2f} MB/s {memory:6.0f} MB"
        )
    ratios: Any = {key: results["naive"][key] / results["ours"][key] for key in ("seconds", "peak")}
    print(f"ours is {ratios['seconds']:.1f} times as fast in 1/{ratios['peak']:.1f} of the memory; ", end="")
    print(f"both give {agreement(labels):.1%} of captions the same classes")


def register(labels: LabelSet, count: int) -> None:
    """How fast texts are registered."""
    texts = list(sentences(labels, count))
    for near in (False, True):
        taken, start = Taken(near), time.perf_counter()
        for text in texts:
            taken.admit(text)
        rate = count / (time.perf_counter() - start)
        print(f"register, {'near' if near else 'exact'}: {rate:.0f} texts/s, {taken.count} of {count} admitted")


def main() -> None:
    """Write the file, compare, clean up."""
    options = arguments()
    labels = LabelSet.load(options.labels)
    if options.side:
        side(options, labels)
        return
    with tempfile.TemporaryDirectory(prefix="t2ipal-corpus-") as directory:
        path = Path(directory) / "captions.json"
        write(path, labels, options.captions)
        compare(options, labels, path)
    register(labels, options.texts)


if __name__ == "__main__":
    main()
