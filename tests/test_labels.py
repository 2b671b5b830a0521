import time
from pathlib import Path

import pytest

from t2ipal.errors import UserError
from t2ipal.labels import LabelSet, normalise, plural, shipped
from t2ipal.openmoji.drawings import class_names

VOC = LabelSet.load("voc2007")

CASES = {
    # names, case, articles, plurals
    "A cat sits on a mat": {"cat"},
    "CATS!": {"cat"},
    "two buses and three busses": {"bus"},
    "puppies in a basket": {"dog"},
    "two huskies pull a sled": {"dog"},
    "three geese cross the path": {"bird"},
    "oxen and calves in a field": {"cow"},
    "a flock of sheep": {"sheep"},
    "children play while women watch": {"person"},
    "two firemen and a policewoman": {"person"},
    "fishermen mend nets": {"person"},
    "an aeroplane": {"aeroplane"},
    "vacant streets at dawn": set(),
    "": set(),
    # prompt names, ids and other spellings
    "a diningtable": {"diningtable"},
    "a dining table": {"diningtable"},
    "a dining-table": {"diningtable"},
    "dining tables": {"diningtable"},
    "a tvmonitor": {"tvmonitor"},
    "the T.V. is on": {"tvmonitor"},
    "old TVs": {"tvmonitor"},
    "a flat-screen": {"tvmonitor"},
    "an S.U.V. passes": {"car"},
    "\uff24\uff2f\uff27 in full width": {"dog"},
    # synonyms and kinds
    "a plane over the city": {"aeroplane"},
    "a jumbo jet": {"aeroplane"},
    "her bike": {"bicycle"},
    "a motor bike": {"motorbike"},
    "a motorcycle": {"motorbike"},
    "a red scooter": {"motorbike"},
    "an owl at night": {"bird"},
    "a chicken in the yard": {"bird"},
    "a ferry leaves": {"boat"},
    "an aircraft carrier": {"boat"},
    "a taxi waits": {"car"},
    "a pickup truck": {"car"},
    "a donkey": {"horse"},
    "a woman on horseback": {"horse", "person"},
    "a lamb": {"sheep"},
    "a loveseat": {"sofa"},
    "an armchair beside a couch": {"chair", "sofa"},
    "a tram": {"train"},
    "a houseplant": {"pottedplant"},
    "a potted fern": {"pottedplant"},
    "a wine bottle": {"bottle"},
    # compounds before their parts
    "a train car": {"train"},
    "a street car": {"train"},
    "a German shepherd": {"dog"},
    "a shepherd with his sheep": {"person", "sheep"},
    "a sheep dog": {"dog"},
    "a pit bull": {"dog"},
    "a greyhound bus": {"bus"},
    "a house boat": {"boat"},
    "a swan boat": {"boat"},
    "a passenger jet": {"aeroplane"},
    "a bus driver": {"person"},
    "a bike rider": {"bicycle", "person"},
    "a cowboy": {"person"},
    "a sofa chair": {"chair"},
    "a baby bird": {"bird"},
    "a baby bottle": {"bottle"},
    "an adult sheep": {"sheep"},
    "a cat lady": {"person"},
    "a dining room table": {"diningtable"},
    # exclusions
    "a hot dog with mustard": set(),
    "hot dogs": set(),
    "a Hot-Dog stand": set(),
    "a hot dog for the dog": {"dog"},
    "a teddy bear": set(),
    "a toy car": set(),
    "toy trains": set(),
    "a coffee table": set(),
    "a bus stop": set(),
    "train tracks": set(),
    "a train station with a train": {"train"},
    "a bird house": set(),
    "a bird's eye view": set(),
    "a bull's-eye": set(),
    "fried chicken": set(),
    "a plate of chicken and rice": set(),
    "chicken broth": set(),
    "a flock of chickens": {"bird"},
    "cows and chickens": {"bird", "cow"},
    "a catcher's mitt": set(),
    "a rubber duck": set(),
    "leg of lamb": set(),
    "a pony tail": set(),
    "a rocking horse": set(),
    "a couple of birds": {"bird"},
    "a couple of people": {"person"},
    "a couple on a bench": {"person"},
    "a family of ducks": {"bird"},
    "a family of four": {"person"},
    "a dvd player": set(),
    "a baby elephant": set(),
    "a pitcher of water": set(),
    "a man-made lake": set(),
    "a jet ski": set(),
    "a power plant": set(),
    "a screen door": set(),
    "a tv stand": set(),
    "a wheel chair": set(),
    "a cable car": set(),
    "a couch potato": set(),
    "a painting by Van Gogh": set(),
    "no people in an empty street": set(),
    "a room without people": set(),
    # verbs, and prepositions that only look like them
    "to train for the race": set(),
    "ready to ship": set(),
    "learning to plant": set(),
    "next to train": {"train"},
    "next to train tracks": set(),
    # a phrase does not reach over punctuation
    "a bus, stop signs and lights": {"bus"},
    "It was hot. Dog asleep.": {"dog"},
    "a car (park behind it)": {"car"},
    # whole words only
    "a catfish, a carpet and a birdcage": set(),
    "a category of businesses": set(),
    "a doghouse": set(),
    "a spaceship": set(),
    "a tablet": set(),
    # possessives
    "the dog's ears": {"dog"},
    "the man\u2019s hat": {"person"},
    "the men's room": set(),
    # ambiguous words are left out
    "a coach": set(),
    "a crane": set(),
    "a stool and a bench": set(),
    "a big cat": {"cat"},
    "a dark horse": {"horse"},
}


@pytest.mark.parametrize(("text", "expected"), CASES.items())
def test_voc_words_are_mined(text: str, expected: set[str]) -> None:
    assert set(VOC.labels(text)) == expected


def test_voc_has_the_classes_of_the_benchmark_in_their_order() -> None:
    assert VOC.names == class_names()
    assert [VOC.prompt_name(n) for n in ("diningtable", "pottedplant", "tvmonitor", "dog")] == [
        "dining table",
        "potted plant",
        "tv monitor",
        "dog",
    ]


@pytest.mark.parametrize("name", VOC.names)
def test_every_name_synonym_and_kind_gives_its_own_class(name: str) -> None:
    for word in (name, VOC.prompt_name(name), *VOC.synonyms[name], *VOC.kinds[name]):
        assert VOC.labels(f"Look, the {word} here.") == (name,)
        assert VOC.labels(word.upper()) == (name,)


@pytest.mark.parametrize("name", VOC.names)
def test_every_exclusion_alone_gives_no_class(name: str) -> None:
    for phrase in VOC.exclusions[name]:
        assert VOC.labels(f"look, the {phrase}, there") == (), phrase


def test_matches_carry_the_span_as_written() -> None:
    text = "Two  Dining-Tables and a dog's bone; the DOG\u2019s ball"
    assert [(m.label, m.phrase) for m in VOC.mine(text)] == [("diningtable", "Dining-Tables"), ("dog", "DOG")]
    assert all(text[match.start : match.end] == match.phrase for match in VOC.mine(text))


def test_labels_stand_once_and_in_label_set_order() -> None:
    assert VOC.labels("a tv, a dog, a cat, a dog and an airplane") == ("aeroplane", "cat", "dog", "tvmonitor")


def test_normalisation_drops_case_punctuation_and_possessives() -> None:
    assert normalise("The Dog\u2019s T.V. — it's café-style!") == ("the", "dog", "t", "v", "it", "café", "style")


@pytest.mark.parametrize(
    ("singular", "expected"),
    [
        ("dog", "dogs"), ("bus", "buses"), ("fox", "foxes"), ("bench", "benches"), ("lady", "ladies"), ("toy", "toys"),
        ("woman", "women"), ("human", "humans"), ("fire engine", "fire engines"), ("baby calf", "baby calves"),
        ("ox", "oxen"), ("sheep", "sheep"), ("wine glass", "wine glasses"),
    ],
)  # fmt: skip
def test_plurals_follow_simple_rules(singular: str, expected: str) -> None:
    assert plural(singular) == expected


def test_mining_is_fast_enough_for_large_corpora() -> None:
    texts = ["A man riding a wave on top of a surfboard near a boat.", "two chairs by a dining table"] * 2500
    start = time.process_time()
    for text in texts:
        VOC.mine(text)
    assert len(texts) / (time.process_time() - start) > 10_000


def _load(tmp_path: Path, text: str) -> LabelSet:
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return LabelSet.load(path)


def test_a_file_of_names_alone_is_enough(tmp_path: Path) -> None:
    labels = _load(tmp_path, "classes: [fire engine, street_lamp, fox]\n")
    assert labels.names == ("fire engine", "street_lamp", "fox")
    assert labels.prompt_name("street_lamp") == "street lamp"
    assert labels.labels("Foxes under street lamps beside a fire-engine") == labels.names


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
        ("classes: {a: {plurals: {a: [xs]}}, b: {plurals: {b: [xs]}}}", ["classes.a (plural)", "classes.b (plural)"]),
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
