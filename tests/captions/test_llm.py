import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from t2ipal.captions.answers import Answer, Answers, Request
from t2ipal.captions.caption import Caption, Slot
from t2ipal.captions.companions import Companions
from t2ipal.captions.duplicates import Taken
from t2ipal.captions.llm import LlmSource
from t2ipal.errors import UserError
from t2ipal.labels import LabelSet
from t2ipal.settings import LlmSettings

LABELS = "classes:\n  dog: {synonyms: [hound]}\n  cat:\n  owl:\n  pottedplant: {prompt: potted plant}\n"


class Script:
    """A model that answers as a function says, and remembers what it was asked."""

    identity = "script"

    def __init__(self, say: Callable[[Request], str]) -> None:
        self.say = say
        self.asked: list[Request] = []
        self.prepared = 0

    def prepare(self) -> None:
        self.prepared += 1

    def answer(self, requests: Sequence[Request], keep: Callable[[Request, Answer], None]) -> None:
        for request in requests:
            self.asked.append(request)
            keep(request, Answer(self.say(request), finished=True))


def obedient(request: Request) -> str:
    return f"In this view number {request.seed} you see {request.prompt.removeprefix('Show ')}."


@pytest.fixture
def labels(tmp_path: Path) -> LabelSet:
    path = tmp_path / "labels.yaml"
    path.write_text(LABELS, encoding="utf-8")
    return LabelSet.load(path)


@pytest.fixture
def source(tmp_path: Path, labels: LabelSet) -> Callable[..., LlmSource]:
    def make(say: Callable[[Request], str] = obedient, max_classes: int = 2, seed: int = 3, **keys: Any) -> LlmSource:
        values = {"url": "http://localhost:1/v1", "prompt": "Show {classes}", "cache": str(tmp_path / "cache"), **keys}
        made = LlmSource(labels, LlmSettings(**values), Companions(labels, max_classes), seed)
        made.model = Script(say)
        return made

    return make


def script(source: LlmSource) -> Script:
    assert isinstance(source.model, Script)
    return source.model


def rounds(labels: LabelSet, count: int) -> list[list[Slot]]:
    size = len(labels.names)
    return [[Slot(r * size + i, name) for i, name in enumerate(labels.names)] for r in range(count)]


def run(source: LlmSource, slots: Sequence[Sequence[Slot]]) -> list[Caption | None]:
    taken = Taken()
    return [caption for some in slots for caption in source.serve(some, taken)]


def test_every_slot_gets_a_caption_that_mentions_its_class(source: Callable[..., LlmSource], labels: LabelSet) -> None:
    slots = rounds(labels, 20)
    captions = run(source(), slots)
    for slot, caption in zip((slot for some in slots for slot in some), captions, strict=True):
        assert caption is not None
        assert caption.source == "llm"
        assert caption.requested[0] == slot.lead
        assert set(caption.labels) == set(caption.requested)
        assert [match.phrase for match in caption.mentions]
    sizes = Counter(len(caption.requested) for caption in captions if caption)
    assert sizes[1] and sizes[2]


def test_requests_name_the_classes_with_articles_and_carry_the_settings(
    source: Callable[..., LlmSource], labels: LabelSet
) -> None:
    made = source(max_classes=1, system="Be brief.", temperature=0.5, top_p=0.8, max_tokens=9)
    made.serve(rounds(labels, 1)[0], Taken())
    asked = script(made).asked
    assert [request.prompt for request in asked] == ["Show a dog", "Show a cat", "Show an owl", "Show a potted plant"]
    assert {(r.model, r.system, r.temperature, r.top_p, r.max_tokens) for r in asked} == {
        ("script", "Be brief.", 0.5, 0.8, 9)
    }
    assert len({request.seed for request in asked}) == 4
    assert all(0 <= request.seed < 2**31 for request in asked)


def test_braces_in_the_prompt_are_left_alone(source: Callable[..., LlmSource], labels: LabelSet) -> None:
    made = source(max_classes=1, prompt="{x} Show {classes} {}")
    made.serve(rounds(labels, 1)[0][:1], Taken())
    assert script(made).asked[0].prompt == "{x} Show a dog {}"


def test_more_rounds_only_append(source: Callable[..., LlmSource], labels: LabelSet, tmp_path: Path) -> None:
    def moody(request: Request) -> str:
        return obedient(request) if request.seed % 3 else f"A hound and a cat, number {request.seed}."

    few = run(source(moody, cache=str(tmp_path / "1")), rounds(labels, 6))
    many = run(source(moody, cache=str(tmp_path / "2")), rounds(labels, 12))
    assert many[: len(few)] == few
    assert run(source(moody, cache=str(tmp_path / "3"), seed=4), rounds(labels, 6)) != few


def test_a_request_depends_on_slot_and_attempt_alone(
    source: Callable[..., LlmSource], labels: LabelSet, tmp_path: Path
) -> None:
    one, other = source(cache=str(tmp_path / "1")), source(cache=str(tmp_path / "2"))
    slots = rounds(labels, 3)
    run(one, slots)
    other.serve([slots[2][1]], Taken())
    assert script(other).asked == [script(one).asked[9]]


def test_what_does_not_do_is_asked_again_in_other_words(source: Callable[..., LlmSource], labels: LabelSet) -> None:
    answers = iter(["Two cats sleep on it.", "Nothing to see here at all.", "A hound sleeps on it."])
    made = source(lambda request: next(answers), attempts=3)
    (caption,) = made.serve([Slot(0, "dog")], Taken())
    assert caption is not None
    assert (caption.text, caption.labels) == ("A hound sleeps on it.", ("dog",))
    assert len({request.seed for request in script(made).asked}) == 3


def test_a_slot_that_cannot_be_served_stays_open(source: Callable[..., LlmSource]) -> None:
    made = source(lambda request: "Two cats sleep on it.", attempts=3)
    assert made.serve([Slot(0, "dog"), Slot(1, "cat")], Taken())[0] is None
    assert len(script(made).asked) == 3 + 1
    assert made.facts()["unserved"] == 1


def test_facts_count_every_reason_by_class(source: Callable[..., LlmSource], labels: LabelSet) -> None:
    answers = {
        "a dog": ["A cat on a mat.", "???", "A car on a road."],
        "a cat": ["A cat on a mat.", "A cat and a dog."],
    }
    made = source(lambda request: answers[request.prompt.removeprefix("Show ")].pop(0), max_classes=1, attempts=3)
    taken = Taken()
    taken.admit("A cat on a mat.")
    captions = made.serve([Slot(0, "dog"), Slot(1, "cat")], taken)
    assert [caption and caption.text for caption in captions] == [None, "A cat and a dog."]
    facts = made.facts()
    assert facts["answers"] == {
        "asked": 5,
        "kept": 1,
        "from_spare": 0,
        "dropped": {"lacks the lead": 1, "near-duplicate": 1, "no class": 1, "rubbish": 1},
        "exact": 1 / 5,
        "lead": 2 / 5,
    }
    assert facts["answers_per_class"]["dog"] == {
        "asked": 3,
        "kept": 0,
        "from_spare": 0,
        "dropped": {"lacks the lead": 1, "no class": 1, "rubbish": 1},
        "exact": 0.0,
        "lead": 0.0,
    }
    assert facts["answers_per_class"]["cat"]["exact"] == 1 / 2
    assert facts["answers_per_class"]["owl"]["lead"] is None
    assert facts["model_identity"] == "script"
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


def test_an_answer_about_another_class_serves_a_later_round(source: Callable[..., LlmSource]) -> None:
    answers = iter(["Two cats sleep on it.", "A dog digs in the sand.", "An owl flies at night."])
    made, taken = source(lambda request: next(answers), max_classes=1), Taken()
    first = made.serve([Slot(0, "dog")], taken)
    second = made.serve([Slot(1, "cat"), Slot(2, "owl")], taken)
    assert [caption and caption.text for caption in first + second] == [
        "A dog digs in the sand.", "Two cats sleep on it.", "An owl flies at night.",
    ]  # fmt: skip
    assert second[0] is not None
    assert (second[0].requested, second[0].labels) == (("dog",), ("cat",))
    assert len(script(made).asked) == 3
    assert made.facts()["answers_per_class"]["cat"]["from_spare"] == 1


def test_a_spare_answer_does_not_serve_its_own_round(source: Callable[..., LlmSource]) -> None:
    answers = iter(["Two cats sleep on it.", "Nothing to see here at all.", "A dog digs in it.", "A cat digs in it."])
    made = source(lambda request: next(answers), max_classes=1)
    captions = made.serve([Slot(0, "dog"), Slot(1, "cat")], Taken())
    assert [caption and caption.text for caption in captions] == ["A dog digs in it.", "A cat digs in it."]


def test_a_spare_answer_serves_once(source: Callable[..., LlmSource]) -> None:
    answers = iter(["A cat and an owl sit there.", "A dog digs in it.", "An owl flies at night."])
    made, taken = source(lambda request: next(answers), max_classes=1), Taken()
    made.serve([Slot(0, "dog")], taken)
    captions = made.serve([Slot(1, "cat"), Slot(2, "owl")], taken)
    assert [caption and caption.text for caption in captions] == [
        "A cat and an owl sit there.", "An owl flies at night.",
    ]  # fmt: skip


def test_a_free_slot_takes_a_caption_of_any_class(source: Callable[..., LlmSource], labels: LabelSet) -> None:
    made = source(lambda request: f"A cat, number {request.seed}, sits there.", max_classes=1)
    captions = made.serve([Slot(number, None) for number in range(40)], Taken())
    assert all(caption and caption.labels == ("cat",) for caption in captions)
    assert {caption.requested[0] for caption in captions if caption} == set(labels.names)
    assert len(script(made).asked) == 40


def test_a_rerun_asks_for_nothing_and_answers_the_same(source: Callable[..., LlmSource], labels: LabelSet) -> None:
    first = run(source(), rounds(labels, 4))
    again = source(lambda request: pytest.fail("asked again"))
    assert run(again, rounds(labels, 4)) == first
    assert again.facts()["cache_hits"] == 16
    assert script(again).prepared == 0


def test_more_captions_ask_only_for_what_is_new(source: Callable[..., LlmSource], labels: LabelSet) -> None:
    run(source(), rounds(labels, 4))
    longer = source()
    run(longer, rounds(labels, 6))
    assert len(script(longer).asked) == 8


def test_one_request_is_asked_once_however_many_slots_make_it(source: Callable[..., LlmSource]) -> None:
    made = source(temperature=0.0, max_classes=1, attempts=1)
    captions = made.serve([Slot(0, "dog"), Slot(1, "dog")], Taken())
    assert [request.seed for request in script(made).asked] == [0]
    assert [caption and caption.text for caption in captions] == ["In this view number 0 you see a dog.", None]


def test_answers_until_a_failure_are_kept(source: Callable[..., LlmSource], labels: LabelSet, tmp_path: Path) -> None:
    def failing(request: Request) -> str:
        if "owl" in request.prompt:
            raise UserError("the server burns")
        return obedient(request)

    made = source(failing, max_classes=1)
    with pytest.raises(UserError, match="the server burns"):
        made.serve(rounds(labels, 1)[0], Taken())
    assert len(Answers(tmp_path / "cache")) == 2
    on = source(max_classes=1)
    on.serve(rounds(labels, 1)[0], Taken())
    assert [request.prompt for request in script(on).asked] == ["Show an owl", "Show a potted plant"]


def test_progress_counts_what_is_asked(
    source: Callable[..., LlmSource], labels: LabelSet, capsys: pytest.CaptureFixture[str]
) -> None:
    made = source(model="somebody/tiny")
    run(made, rounds(labels, 3))
    made.facts()
    assert "asking tiny: 12 of 12 answers" in capsys.readouterr().err


def test_a_damaged_cache_is_told_before_anything_is_asked(source: Callable[..., LlmSource], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no database " * 1000)
    with pytest.raises(UserError, match=r"captions\.llm\.cache .*/cache is no cache of answers"):
        source()


def test_a_local_model_that_is_not_there_is_told_at_once(tmp_path: Path, labels: LabelSet) -> None:
    settings = LlmSettings(model=f"local-dir:{tmp_path / 'none'}", cache=str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"model directory '.*/none' \(config key 'captions\.llm\.model'\) does not"):
        LlmSource(labels, settings, Companions(labels, 2), 0)
