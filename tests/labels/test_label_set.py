from __future__ import annotations

from pathlib import Path

import pytest

from t2ipal.errors import UserError
from t2ipal.labels import LabelSet, shipped

VOC = LabelSet.load("voc2007")


def test_matches_carry_the_span_as_written() -> None:
    text = "Two  Dining-Tables and a dog's bone; the DOG\u2019s ball"
    assert [(m.label, m.phrase) for m in VOC.mine(text)] == [("diningtable", "Dining-Tables"), ("dog", "DOG")]
    assert all(text[match.start : match.end] == match.phrase for match in VOC.mine(text))


def test_labels_stand_once_and_in_label_set_order() -> None:
    assert VOC.labels("a tv, a dog, a cat, a dog and an airplane") == ("aeroplane", "cat", "dog", "tvmonitor")


def _load(tmp_path: Path, text: str) -> LabelSet:
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return LabelSet.load(path)


def test_a_file_of_names_alone_is_enough(tmp_path: Path) -> None:
    labels = _load(tmp_path, "classes: [fire engine, street_lamp, fox]\n")
    assert labels.names == ("fire engine", "street_lamp", "fox")
    assert labels.prompt_name("street_lamp") == "street lamp"
    assert labels.labels("Foxes under street lamps beside a fire-engine") == labels.names


def test_names_have_a_way_to_be_shown(tmp_path: Path) -> None:
    labels = _load(tmp_path, "classes: {street_lamp: {}, tv: {prompt: tv set, display: TV}}\n")
    assert [labels.display_name(name) for name in labels.names] == ["street lamp", "TV"]
    assert labels.prompt_name("tv") == "tv set"


def test_a_mapping_may_leave_words_out(tmp_path: Path) -> None:
    labels = _load(tmp_path, "classes:\n  mouse:\n    plurals: {mouse: [mice, mouses]}\n  cat:\n")
    assert labels.labels("mouses and cats") == ("mouse", "cat")


def test_stated_phrases_go_before_derived_plurals(tmp_path: Path) -> None:
    labels = _load(tmp_path, "classes: [glass, glasses]\n")
    assert labels.labels("a man with glasses") == ("glasses",)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("classes: {}", ["at least one class"]),
        ("classes: []", ["at least one class"]),
        ("names: [cat]", ["names"]),
        ("classes: [cat]\nextra: 1", ["'extra'", "unknown"]),
        ("classes: {cat: {synonym: [kitty]}}", ["'classes.cat.synonym'", "unknown"]),
        ("classes: {cat: {synonyms: kitty}}", ["classes.cat.synonyms"]),
        ("classes: [cat, 7]", ["7", "quotes"]),
        ("classes: [{cat: {}}]", ["cat", "quotes"]),
        ("classes: {cat: false}", ["classes.cat"]),
        ("classes: {7: {}}", ["7"]),
        ("classes: cat", ["classes"]),
        ("classes: [yes, cat]", ["True"]),
        ("classes: ['']", ["classes"]),
        ("classes: ['!!']", ["'!!'", "no word"]),
        ("classes: [cat, cat]", ["'cat'", "twice"]),
        ("classes: {cat: {}, cat: {}}", ["'cat'", "twice", "line 1"]),
        ("classes: {cat: {synonyms: [pet]}, dog: {kinds: [Pet]}}", ["classes.cat.synonyms", "classes.dog.kinds"]),
        ("classes: {cat: {}, dog: {synonyms: [CAT]}}", ["classes.cat", "classes.dog.synonyms"]),
        ("classes: {dog: {kinds: [pup]}, food: {exclusions: [pup]}}", ["classes.dog.kinds", "classes.food.exclusions"]),
        (
            "classes: {a: {plurals: {a: [xs]}}, b: {plurals: {b: [xs]}}}",
            ["classes.a (plural", "of 'b')"],
        ),
        ("classes: {cat: {plurals: {kat: [kats]}}}", ["classes.cat.plurals", "'kat'"]),
        ("[cat", ["not valid YAML"]),
        ("just text", ["mapping"]),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        _load(tmp_path, text)
    assert all(part in str(caught.value) for part in ["own.yaml", *parts]), str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_names_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no label set 'voc2008'.*voc2007"):
        LabelSet.load("voc2008")
    with pytest.raises(UserError, match=r"cannot read label set .*none\.yaml"):
        LabelSet.load(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"classes: [caf\xe9]")
    with pytest.raises(UserError, match="UTF-8"):
        LabelSet.load(tmp_path / "latin.yaml")


def test_every_shipped_label_set_loads() -> None:
    assert "voc2007" in shipped()
    assert all(LabelSet.load(name).names for name in shipped())
