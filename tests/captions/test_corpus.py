from __future__ import annotations

import gzip
import hashlib
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from t2ipal.captions.caption import Caption, Slot
from t2ipal.captions.corpus import CorpusSource, Entry, Pool, priority
from t2ipal.captions.duplicates import Taken, normalised
from t2ipal.errors import UserError
from t2ipal.labels import LabelSet
from t2ipal.settings import CorpusSettings

COCO = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco"
VOC = LabelSet.load("voc2007")
PLACES = ["in the park", "at home", "on the road", "by the sea", "under a tree", "near the window", "at night"]
SUBJECTS = ["dog", "dog", "dog", "cat", "two cats", "dog and a cat", "horse", "train", "mountain"]
LOOKS = ["small", "large", "old", "young", "grey", "wet", "lonely", "happy", "hungry", "sleepy", "lost"]


def write(path: Path, texts: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "\n".join(texts).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


TEXTS = [f"A {look} {subject} {place}." for look in LOOKS for subject in SUBJECTS for place in PLACES]


def source(*paths: Path, seed: int = 0, labels: LabelSet = VOC, **changes: Any) -> CorpusSource:
    settings = CorpusSettings.model_validate({"files": [str(path) for path in paths], **changes})
    return CorpusSource(labels, settings, seed)


def serve(corpus: CorpusSource, leads: Sequence[str | None], taken: Taken | None = None) -> list[Caption | None]:
    return corpus.serve([Slot(number, lead) for number, lead in enumerate(leads)], taken or Taken())


def said(captions: Sequence[Caption | None]) -> list[str | None]:
    return [caption.text if caption else None for caption in captions]


LEADS: list[str | None] = ["dog", "cat", "horse", None, "train", "sheep", "dog", None, "cat"]


def test_a_caption_is_what_the_file_says_with_its_labels_and_mentions(tmp_path: Path) -> None:
    corpus = source(write(tmp_path / "a.txt", ["", "  A  dog and\ttwo cats\r", "A mountain"]))
    (caption,) = serve(corpus, ["cat"])
    assert caption is not None
    assert (caption.text, caption.source, caption.requested) == ("A dog and two cats", "corpus", ())
    assert caption.labels == ("cat", "dog")
    assert [(match.label, match.phrase) for match in caption.mentions] == [("dog", "dog"), ("cat", "cats")]


def test_a_slot_gets_its_class_or_any_and_none_where_there_is_none(tmp_path: Path) -> None:
    answers = serve(source(write(tmp_path / "a.txt", TEXTS)), LEADS * 3)
    for lead, caption in zip(LEADS * 3, answers, strict=True):
        assert (caption is None) == (lead == "sheep")
        assert caption is None or (lead in caption.labels if lead else caption.labels)
    texts = [text for text in said(answers) if text]
    assert len(set(texts)) == len(texts) == 24


def slow_order(texts: Sequence[str], seed: int, lead: str | None) -> list[str]:
    """All distinct texts that mention the class, sorted by a hash."""

    def order(text: str) -> bytes:
        return hashlib.blake2b(f"{seed} {normalised(text)}".encode(), digest_size=8).digest()

    return sorted({t for t in texts if (lead in VOC.labels(t) if lead else VOC.labels(t))}, key=order)


@pytest.mark.parametrize("lead", ["dog", "cat", None])
@pytest.mark.parametrize("pool", [1, 3, 30, 4000])
def test_captions_come_in_the_order_of_a_hash_as_far_as_the_pool_goes(
    tmp_path: Path, lead: str | None, pool: int
) -> None:
    corpus = source(write(tmp_path / "a.txt", TEXTS), seed=5, pool=pool)
    expected = slow_order(TEXTS, 5, lead)[: pool if lead else pool * len(VOC.names)]
    assert said(serve(corpus, [lead] * 1000)) == [*expected, *[None] * (1000 - len(expected))]


def test_neither_files_nor_their_order_nor_their_packing_matter(tmp_path: Path) -> None:
    shuffled = random.Random(0).sample(TEXTS, len(TEXTS))
    parts = [write(tmp_path / "b.txt", shuffled[:100]), write(tmp_path / "a.txt.gz", shuffled[100:])]
    for pool in (5, 4000):
        one = serve(source(write(tmp_path / "all.txt", TEXTS), pool=pool), LEADS * 4)
        assert serve(source(*parts, pool=pool), LEADS * 4) == one
        assert serve(source(*reversed(parts), pool=pool), LEADS * 4) == one


def test_the_seed_decides_and_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", TEXTS)
    one, again, other = (serve(source(path, seed=seed), LEADS) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_three_rounds_and_two_more_are_five_rounds(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", TEXTS)
    five, taken = source(path), Taken(near=True)
    expected = [said(serve(five, LEADS, taken)) for _ in range(5)]
    later, taken = source(path), Taken(near=True)
    assert [said(serve(later, LEADS, taken)) for _ in range(3)] == expected[:3]
    assert [said(serve(later, LEADS, taken)) for _ in range(2)] == expected[3:]
    assert said(serve(source(path), LEADS * 5, Taken(near=True))) == [text for round_ in expected for text in round_]


def test_a_larger_pool_only_adds(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", TEXTS)
    small, large = (said(serve(source(path, pool=pool), ["dog"] * 40)) for pool in (10, 40))
    assert small == [*large[:10], *[None] * 30]


def test_the_same_text_twice_counts_once(tmp_path: Path) -> None:
    texts = ["A dog runs.", "a dog runs", "The dog runs!", "A cat", "A cat", "A mountain", "A mountain"]
    for order in (texts, texts[::-1]):
        corpus = source(write(tmp_path / "a.txt", order))
        assert said(serve(corpus, [None] * 4)) in (
            ["A cat", "A dog runs.", None, None],
            ["A dog runs.", "A cat", None, None],
        )
        facts = corpus.facts()
        assert (facts["with_class"], facts["duplicates"], facts["without_class"]) == (5, 3, 2)
        assert facts["available"]["dog"] == {"distinct": 1, "estimated": False, "served": 1}


def test_what_is_taken_is_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", TEXTS)
    free = [text for text in said(serve(source(path), ["dog"] * 6)) if text]
    taken = Taken()
    for text in (free[0], free[2].upper()):
        assert taken.admit(text)
    assert said(serve(source(path), ["dog"] * 4, taken)) == [free[1], *free[3:]]
    assert taken.count == 6


class Capped:
    """A register that wants no class more than ``cap`` times."""

    def __init__(self, cap: int) -> None:
        self.cap, self.mentions = cap, Counter[str]()

    def admit(self, text: str) -> bool:
        found = VOC.labels(text)
        if any(self.mentions[name] >= self.cap for name in found):
            return False
        self.mentions.update(found)
        return True


def test_a_register_with_a_cap_gets_no_class_above_it(tmp_path: Path) -> None:
    corpus, register = source(write(tmp_path / "a.txt", TEXTS)), Capped(7)
    rounds = [corpus.serve([Slot(0, "dog"), Slot(1, "cat"), Slot(2, None)], register) for _ in range(20)]
    captions = [caption for round_ in rounds for caption in round_ if caption]
    counts = Counter(name for caption in captions for name in caption.labels)
    assert counts == register.mentions
    assert counts["dog"] == counts["cat"] == counts["horse"] == counts["train"] == 7
    assert rounds[-1] == [None] * 3


def test_long_captions_and_those_without_class_are_left_out_and_counted(tmp_path: Path) -> None:
    texts = ["A dog " + "very " * 58, "A dog " + "so " * 59, "A mountain", "A cat"]
    corpus = source(write(tmp_path / "a.txt", texts))
    assert sorted(filter(None, said(serve(corpus, [None] * 3)))) == ["A cat", ("A dog " + "very " * 58).strip()]
    facts = corpus.facts()
    assert (facts["too_long"], facts["without_class"], facts["with_class"]) == (1, 1, 2)


def test_facts_say_what_was_read_and_served(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    entries = [{"caption": text, "image_id": str(number)} for number, text in enumerate(TEXTS)]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries) + "{\n")
    ids = write(tmp_path / "ids.txt", ["2000", "2001"])
    corpus = source(path, evaluation_ids=[str(ids)])
    assert corpus.facts()["lines"] == 0
    serve(corpus, ["dog", "cat", "sheep"])
    facts = corpus.facts()
    assert json.loads(json.dumps(facts)) == facts
    each, bytes_ = len(LOOKS) * len(PLACES), path.stat().st_size
    assert facts["files"] == [
        {"file": str(path), "format": "localized-narratives", "bytes": bytes_, "lines": 9 * each + 1, "malformed": 1}
    ]
    assert (facts["lines"], facts["malformed"], facts["without_class"]) == (9 * each + 1, 1, each)
    (place,) = facts["malformed_places"]
    assert place.startswith(f"{path}, line {9 * each + 1}: it is no JSON")
    assert facts["evaluation_images"]["evaluation_images"] == 2
    assert facts["available"]["horse"] == {"distinct": each, "estimated": False, "served": 0}
    assert facts["available"]["dog"]["distinct"] == 2 * each
    assert facts["duplicates"] == 2 * each
    assert facts["available"]["sheep"] == {"distinct": 0, "estimated": False, "served": 0}
    assert facts["available"]["dog"]["served"] + facts["available"]["cat"]["served"] in (2, 3, 4)


def test_leaks_are_refused_at_the_first_call_unless_they_are_allowed(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_text("image,text\n1,A dog\n000000000042.jpg,A cat\n")
    ids = write(tmp_path / "ids.txt", ["COCO_val2014_000000000042.jpg"])
    columns: dict[str, Any] = {"column": "text", "image_column": "image", "evaluation_ids": [str(ids)]}
    with pytest.raises(UserError, match=r"1 captions of 1 evaluation images.*captions\.csv, line 3"):
        serve(source(path, **columns), ["dog"])
    allowed = source(path, **columns, allow_evaluation=True)
    assert said(serve(allowed, ["cat"])) == ["A cat"]
    assert allowed.facts()["evaluation_images"]["captions"] == 1
    with pytest.raises(UserError, match="cannot be checked"):
        serve(source(path, **{**columns, "image_column": None}), ["dog"])


def test_missing_files_are_told_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        source(tmp_path / "none.txt")


def test_files_are_read_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", TEXTS)
    corpus = source(path)
    serve(corpus, ["dog"])
    path.unlink()
    assert said(serve(corpus, ["dog"]))[0] is not None
    assert corpus.facts()["files"][0]["lines"] == len(TEXTS)


def test_a_pool_estimates_how_many_it_was_offered() -> None:
    for count in (100, 1000, 50_000):
        pool = Pool(1000)
        for number in range(count):
            for _ in range(1 + number % 2):
                pool.offer(Entry(priority(3, f"text {number}"), f"text {number}"))
        distinct, estimated = pool.distinct()
        assert estimated == (count >= 1000)
        assert distinct == count if not estimated else abs(distinct / count - 1) < 4 / 998**0.5


def test_a_pool_keeps_one_of_equal_texts_whatever_their_order() -> None:
    entries = [Entry(7, "b"), Entry(7, "a"), Entry(5, "c"), Entry(9, "d"), Entry(7, "c")] * 100
    for seed in range(5):
        pool = Pool(2)
        for entry in random.Random(seed).sample(entries, len(entries)):
            pool.offer(entry)
        assert pool.entries() == [Entry(5, "c"), Entry(7, "a")]


def test_priorities_are_spread_evenly_and_ignore_case_and_articles() -> None:
    values = [priority(0, f"text {number}") / 2**64 for number in range(4000)]
    counts = Counter(int(value * 10) for value in values)
    assert set(counts) == set(range(10))
    assert all(320 < count < 480 for count in counts.values())
    assert priority(0, "A dog.") == priority(0, "the DOG") != priority(1, "A dog.")


@pytest.mark.skipif(not COCO.is_dir(), reason="the sample of real COCO files is not beside the project")
def test_real_coco_captions_are_served_for_every_class_that_they_name() -> None:
    path = COCO / "annotations" / "captions_train2017.json"
    evaluated = str(COCO / "annotations" / "instances_val2017.json")
    corpus, taken = source(path, evaluation_ids=[evaluated]), Taken(near=True)
    annotations = json.loads(path.read_bytes())["annotations"]
    texts = {" ".join(entry["caption"].split()) for entry in annotations}
    captions = [c for _ in range(3) for c in serve(corpus, VOC.names, taken) if c is not None]
    assert {caption.text for caption in captions} <= texts
    assert len({caption.text for caption in captions}) == len(captions) > 30
    facts = corpus.facts()
    assert facts["lines"] == len(annotations) == facts["without_class"] + facts["with_class"]
    assert facts["evaluation_images"]["captions"] == 0
    for name in VOC.names:
        distinct = {normalised(text) for text in texts if name in VOC.labels(text)}
        assert facts["available"][name]["distinct"] == len(distinct)
    with pytest.raises(UserError, match=r"395 captions of 79 evaluation images"):
        serve(source(COCO / "annotations" / "captions_val2017.json", evaluation_ids=[evaluated]), ["dog"])


STREAM = """
import json, sys, time
from pathlib import Path
from t2ipal.captions.caption import Slot
from t2ipal.captions.corpus import CorpusSource
from t2ipal.captions.duplicates import Taken
from t2ipal.labels import LabelSet
from t2ipal.settings import CorpusSettings

started = time.monotonic()
labels = LabelSet.load(sys.argv[1])
corpus = CorpusSource(labels, CorpusSettings(files=(sys.argv[2],)), seed=0)
captions = corpus.serve([Slot(number, name) for number, name in enumerate(labels.names)], Taken(near=True))
# Not ru_maxrss, which a process inherits from the one that started it.
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
facts = corpus.facts()
print(json.dumps({
    "peak": int(peak.split()[1]) * 1024, "seconds": time.monotonic() - started, "lines": facts["lines"],
    "distinct": [facts["available"][name]["distinct"] for name in labels.names],
    "labels": [caption.labels if caption else () for caption in captions],
}))
"""


SIZE = 600_000_000


def _narratives(path: Path, names: Sequence[str], size: int) -> int:
    """Write at least ``size`` bytes of distinct localized narratives with their traces; the number of lines."""
    rng, mark, lines = random.Random(0), "#######", []
    for number in range(1000):
        spoken = " ".join(f"we see a {rng.choice(LOOKS)} {rng.choice(names)} {rng.choice(PLACES)}," for _ in range(4))
        traces = [[{"x": rng.random(), "y": rng.random(), "t": step / 7} for step in range(9)] for _ in range(4)]
        caption = f"In this picture, {mark} {number}, {spoken} and the sky."
        entry = {"image_id": f"{mark}{number:03}", "caption": caption, "traces": traces}
        lines.append(json.dumps(entry) + "\n")
    block = "".join(lines).encode()
    blocks = -(-size // len(block))
    with path.open("wb") as file:
        for number in range(blocks):
            file.write(block.replace(mark.encode(), b"%07d" % number))
    return blocks * len(lines)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_corpus_is_streamed_in_less_than_half_of_its_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"gadget{a}{b}" for a in "bcdfghkm" for b in "aeioulnrst"]
    labels, path = tmp_path / "labels.yaml", tmp_path / "narratives.jsonl"
    labels.write_text(f"classes: [{', '.join(names)}]")
    lines = _narratives(path, names, SIZE)
    try:
        command = [sys.executable, "-c", STREAM, str(labels), str(path)]
        told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    finally:
        path.unlink()
    with capsys.disabled():
        print(f"\n{SIZE / 1e6:.0f} MB, {lines} lines: {told['seconds']:.0f} s, peak memory {told['peak'] / 1e6:.0f} MB")
    assert told["lines"] == lines
    assert told["peak"] < SIZE / 2
    assert all(name in found for name, found in zip(names, told["labels"], strict=True))
    # Each line names four of eighty classes, with repetition.
    assert all(0.5 < distinct / (lines * (1 - (79 / 80) ** 4)) < 1.5 for distinct in told["distinct"])
