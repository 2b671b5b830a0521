"""The sequence of captions: shares, leading classes, caps, floors, stand-ins; and that more only appends."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from t2ipal.captions.caption import Caption, Register, Slot, mined
from t2ipal.captions.companions import Companions
from t2ipal.captions.duplicates import Taken
from t2ipal.captions.mixture import Balance, Mixture, compose
from t2ipal.captions.templates import TemplateSource
from t2ipal.errors import UserError
from t2ipal.labels import LabelSet

VOC = LabelSet.load("voc2007")


class Numbered:
    """A source of plain captions, which has nothing for some classes."""

    def __init__(self, name: str, lacking: Sequence[str] = (), beside: str = "") -> None:
        self.name, self.lacking, self.beside, self.count = name, lacking, beside, 0
        self.asked: list[Slot] = []

    def serve(self, slots: Sequence[Slot], taken: Register) -> list[Caption | None]:
        return [self._one(slot, taken) for slot in slots]

    def facts(self) -> dict[str, Any]:
        return {"asked": len(self.asked)}

    def _one(self, slot: Slot, taken: Register) -> Caption | None:
        self.asked.append(slot)
        self.count += 1
        lead = slot.lead or "dog"
        text = f"{self.name} {self.count}: a {VOC.prompt_name(lead)}{self.beside}"
        if lead in self.lacking or not taken.admit(text):
            return None
        return mined(VOC, text, self.name, (lead,))


def _compose(balance: Balance, *others: Numbered, seed: int = 3, most: int = 2) -> Mixture:
    rng = np.random.default_rng(seed)
    template = TemplateSource(VOC, Companions(VOC, most), rng, attributes=False)
    sources = {"template": template, **{source.name: source for source in others}}
    return compose(VOC, balance, sources, {name: Taken(near=False) for name in sources}, rng)


def _texts(mixture: Mixture) -> list[str]:
    return [caption.text for caption in mixture.captions]


@pytest.mark.parametrize("total", [1, 20, 33, 100])
def test_there_are_exactly_as_many_captions_as_asked_for_and_every_class_leads_equally_often(total: int) -> None:
    found = _compose(Balance(total, {"template": 1.0}))
    assert len(set(_texts(found))) == total
    leads = Counter(caption.requested[0] for caption in found.captions)
    assert max(leads.values()) - min(leads[name] for name in VOC.names) <= 1


@pytest.mark.parametrize(("few", "many"), [(1, 20), (30, 31), (45, 200)])
@pytest.mark.parametrize("options", [{}, {"cap": 40}, {"floor": 1}], ids=["plain", "cap", "floor"])
def test_a_higher_total_only_appends(few: int, many: int, options: dict[str, int]) -> None:
    weights = {"template": 1.0, "corpus": 2.0}
    short, long = (_compose(Balance(n, weights, **options), Numbered("corpus", ("cat",))) for n in (few, many))
    assert _texts(long)[:few] == _texts(short)


def test_sources_share_the_captions_by_weight_in_every_stretch() -> None:
    found = _compose(Balance(100, {"template": 1.0, "corpus": 3.0}), Numbered("corpus"))
    for end in (4, 20, 60, 100):
        counts = Counter(caption.source for caption in found.captions[:end])
        assert counts["corpus"] == 3 * counts["template"]


def test_counts_of_sources_are_kept_exactly() -> None:
    counts = {"template": 7, "corpus": 31, "llm": 5}
    balance = Balance(43, {name: float(count) for name, count in counts.items()}, counts)
    found = _compose(balance, Numbered("corpus"), Numbered("llm"))
    assert Counter(caption.source for caption in found.captions) == counts


def test_a_template_stands_in_for_what_a_source_lacks_and_is_counted() -> None:
    found = _compose(Balance(60, {"llm": 1.0}), Numbered("llm", ("cat", "sofa")))
    assert found.topped_up == {"llm": {"cat": 3, "sofa": 3}}
    assert sum(entry.stands_in == ("llm", "cat") for entry in found.entries) == 3
    short = _compose(Balance(1, {"llm": 1.0}), Numbered("llm", VOC.names))
    assert sum(sum(counts.values()) for counts in short.topped_up.values()) == 1
    stood_in = [caption for caption in found.captions if caption.source == "template"]
    assert Counter(caption.requested[0] for caption in stood_in) == {"cat": 3, "sofa": 3}


def test_a_cap_holds_for_every_mention_and_the_rarest_class_goes_first() -> None:
    found = _compose(Balance(100, {"llm": 1.0}, cap=8), Numbered("llm", beside=" and a person"))
    mentions = Counter(name for caption in found.captions for name in caption.labels)
    assert max(mentions.values()) == mentions["person"] == 8
    # "person" is named in each caption of the source until it has its eight; it leads none of the later rounds.
    assert "person" not in [caption.requested[0] for caption in found.captions[20:]]


def test_a_cap_that_allows_too_few_captions_is_told() -> None:
    with pytest.raises(UserError, match=r"captions\.cap: after \d+ captions .*raise captions\.cap or lower"):
        _compose(Balance(2000, {"template": 1.0}, cap=3))


def test_after_the_floor_a_corpus_is_taken_as_it_comes_and_others_are_still_led() -> None:
    corpus, llm = Numbered("corpus"), Numbered("llm")
    _compose(Balance(100, {"corpus": 1.0, "llm": 1.0}, floor=2), corpus, llm)
    assert [slot.lead is None for slot in corpus.asked] == [False] * 20 + [True] * 30
    assert all(slot.lead is not None for slot in llm.asked)


def test_more_distinct_captions_than_there_are_is_told_with_the_class() -> None:
    with pytest.raises(UserError, match=r"captions\.total: .*class '\w+' after \d+; lower captions\.total"):
        _compose(Balance(20 * 500, {"template": 1.0}), most=1)
