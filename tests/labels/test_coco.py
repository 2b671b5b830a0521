from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest

from t2ipal.labels import LabelSet

COCO = LabelSet.load("coco")
ANNOTATIONS = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco" / "annotations"

CASES = {
    # the official names, plurals and other spellings
    "a person riding a motorcycle": {"person", "motorcycle"},
    "two aeroplanes over a harbour": {"airplane"},
    "a mobile phone and a cellphone": {"cell phone"},
    "sofas and settees": {"couch"},
    "a television set": {"tv"},
    "an old T.V.": {"tv"},
    "a doughnut": {"donut"},
    "a box of donuts": {"donut"},
    "a hair dryer": {"hair drier"},
    "a hairdryer on a shelf": {"hair drier"},
    "a hair drier": {"hair drier"},
    "a tooth brush": {"toothbrush"},
    "two toothbrushes": {"toothbrush"},
    "wine glasses": {"wine glass"},
    "two glasses of red wine": {"wine glass"},
    "knives and forks": {"knife", "fork"},
    "a fridge": {"refrigerator"},
    "a tennis racquet": {"tennis racket"},
    "a trafficlight": {"traffic light"},
    "stop lights at night": {"traffic light"},
    "a yellow hydrant": {"fire hydrant"},
    "a pair of skis": {"skis"},
    "one ski in the air": {"skis"},
    "a pair of scissors": {"scissors"},
    # people
    "a group of young children": {"person"},
    "a batter swings at a pitch": {"person"},
    "two skateboarders": {"person"},
    "firemen beside a fire engine": {"person", "truck"},
    "a bride and groom cut a wedding cake": {"person", "cake"},
    "a snowman with a carrot nose": {"carrot"},
    "a dvd player": set(),
    "a pitcher of water": set(),
    "a bowl of pancake batter": {"bowl"},
    "an empty street without people": set(),
    "a statue of a man": set(),
    "a mother elephant and her calf": {"elephant"},
    "a mother and baby giraffe": {"giraffe"},
    "a baby elephant": {"elephant"},
    "a baby in a high chair": {"person", "chair"},
    "a male lion": set(),
    # hot dog, dog
    "a hot dog with mustard": {"hot dog"},
    "hotdogs on a grill": {"hot dog"},
    "a chili dog": {"hot dog"},
    "a dog eats a hot dog": {"dog", "hot dog"},
    "a hot dog vendor": {"person"},
    "a hot dog stand": set(),
    "a hot dog bun": set(),
    "a corn dog": set(),
    "a hot dog cake": {"cake"},
    "a dog bowl on the floor": {"bowl"},
    "a dog bed": set(),
    "a stuffed dog": set(),
    "a bird dog in the field": {"dog"},
    # bear
    "a teddy bear on a bed": {"teddy bear", "bed"},
    "stuffed bears": {"teddy bear"},
    "a polar bear": {"bear"},
    "two bear cubs": {"bear"},
    "a bear and a teddy bear": {"bear", "teddy bear"},
    "a koala bear": set(),
    "a bear statue": set(),
    "a statue of a bear": set(),
    "too much to bear": set(),
    # mouse
    "a keyboard and a mouse": {"keyboard", "mouse"},
    "two computer mice": {"mouse"},
    "a cat catches a mouse": {"cat"},
    "a mouse eating cheese": set(),
    "Mickey Mouse": set(),
    "a mouse pad": set(),
    "a toy mouse": set(),
    "a wireless mouse on a mouse pad": {"mouse"},
    # orange, the fruit and the colour
    "an orange and a banana": {"orange", "banana"},
    "a bowl of oranges": {"bowl", "orange"},
    "an orange": {"orange"},
    "an orange on a white plate": {"orange"},
    "sliced oranges": {"orange"},
    "an orange slice": {"orange"},
    "apples, oranges and bananas": {"apple", "orange", "banana"},
    "a man in an orange shirt": {"person"},
    "an orange cat": {"cat"},
    "an orange and white cat": {"cat"},
    "Orange and black butterflies": set(),
    "a bus painted orange": {"bus"},
    "a woman dressed in orange": {"person"},
    "a glass of orange juice": set(),
    "red and orange flowers": set(),
    # apple and other fruit
    "a red apple": {"apple"},
    "an apple laptop": {"laptop"},
    "an Apple keyboard": {"keyboard"},
    "an apple pie": set(),
    "a pineapple": set(),
    "an apple tree": set(),
    "a slice of carrot cake": {"cake"},
    "banana bread": set(),
    "a banana split": set(),
    "a baby carrot": {"carrot"},
    "heads of broccoli": {"broccoli"},
    # train, the noun and the verb
    "a train at the station": {"train"},
    "children train for a race": {"person", "train"},
    "learning to train dogs": {"dog"},
    "standing next to train tracks": set(),
    "a train car": {"train"},
    "a toy train": set(),
    # vehicles
    "a pickup truck": {"truck"},
    "a tow truck pulls a van": {"truck", "car"},
    "a fork lift": set(),
    "a school bus at a bus stop": {"bus"},
    "a bus stop sign": set(),
    "a stop sign beside a bus": {"stop sign", "bus"},
    "a bus, stop signs and lights": {"bus", "stop sign"},
    "an aircraft carrier": {"boat"},
    "a cable car": set(),
    "a hang glider": set(),
    "a remote control plane": set(),
    "a motor scooter": {"motorcycle"},
    # tie, bat, glove, ball
    "a man in a suit and tie": {"person", "tie"},
    "a boy ties his shoe": {"person"},
    "a tie dyed shirt": set(),
    "railroad ties": set(),
    "bow ties": {"tie"},
    "a boy swings a bat": {"person", "baseball bat"},
    "a fruit bat": set(),
    "a cat bats at a toy": {"cat"},
    "learning to bat": set(),
    "a catcher's mitt": {"baseball glove"},
    "oven mitts": set(),
    "a baseball glove": {"baseball glove"},
    "the baseball bat": {"baseball bat"},
    "a soccer ball": {"sports ball"},
    "he throws a baseball": {"sports ball"},
    "a baseball game": set(),
    "the football field": set(),
    "playing baseball": set(),
    "a ball of yarn": set(),
    "a ball cap": set(),
    # boards and skis
    "a man with a paddle board": {"person", "surfboard"},
    "a skateboard park": set(),
    "ski poles": set(),
    "a jet ski": set(),
    "a ski lift": set(),
    "a snow board": {"snowboard"},
    # kitchen
    "a microwave oven": {"microwave"},
    "a toaster oven": set(),
    "a stove": {"oven"},
    "dutch ovens": set(),
    "a super bowl party": set(),
    "they bowl over the wickets": set(),
    "a toilet bowl": {"toilet"},
    "a vessel sink": {"sink"},
    "the sun sinks below the hills": set(),
    "a fork in the road": set(),
    "a cup cake": {"cake"},
    "the world cup": set(),
    "cups of coffee": {"cup"},
    "pancakes and crab cakes": set(),
    "a pizza cutter": set(),
    "a pizza oven": {"oven"},
    "a hamburger": {"sandwich"},
    "an ice cream sandwich": set(),
    "fried chicken and broccoli": {"broccoli"},
    "a plate of chicken and rice": set(),
    "two chickens in a yard": {"bird"},
    "a meal of rice, chicken, and broccoli": {"broccoli"},
    "a skater in a cement bowl": {"person"},
    # electronics
    "a remote on the table": {"remote", "dining table"},
    "a tv remote": {"remote"},
    "a remote area": set(),
    "a remote island": set(),
    "Wii remotes": {"remote"},
    "a piano keyboard": set(),
    "a man playing the keyboard": {"person"},
    "a laptop keyboard": {"laptop"},
    "a phone booth": set(),
    "a pay phone": set(),
    "a heart monitor": set(),
    "a computer monitor": {"tv"},
    "a tv stand": set(),
    "a MacBook": {"laptop"},
    # furniture and rooms
    "a flower bed": set(),
    "a bed of lettuce": set(),
    "a truck bed": {"truck"},
    "a king cab truck": {"truck"},
    "a race car bed": {"bed"},
    "a coffee table": set(),
    "a wheelchair": set(),
    "a rocking chair": {"chair"},
    "a couch potato": set(),
    "toilet paper": set(),
    "a power plant": set(),
    "a potted plant": {"potted plant"},
    "a work bench": set(),
    "a park bench": {"bench"},
    "bookshelves": set(),
    "a book on a shelf": {"book"},
    "to book a flight": set(),
    "a clock tower": {"clock"},
    "six o'clock": set(),
    # animals that are none
    "a zebra crossing": set(),
    "a zebra": {"zebra"},
    "a sea horse": set(),
    "a rocking horse": set(),
    "an elephant seal": set(),
    "a crane over a building site": set(),
    "ducks under a bridge": set(),
    "a stuffed giraffe": set(),
    "catfish": set(),
    "leg of lamb": set(),
    # luggage and clothes
    "a pile of luggage": {"suitcase"},
    "a luggage cart": set(),
    "a coin purse": set(),
    "her purse and umbrella": {"handbag", "umbrella"},
    "an umbrella stand": set(),
    "a book bag": {"backpack"},
}


@pytest.mark.parametrize(("text", "expected"), CASES.items())
def test_coco_words_are_mined(text: str, expected: set[str]) -> None:
    assert set(COCO.labels(text)) == expected


def _plain(phrases: tuple[str, ...]) -> list[str]:
    return [phrase for phrase in phrases if not set(phrase) & set("(<*")]


@pytest.mark.parametrize("name", COCO.names)
def test_every_name_synonym_and_kind_gives_its_own_class(name: str) -> None:
    for word in _plain((name, *COCO.synonyms[name], *COCO.kinds[name])):
        sentence = f"Look, a {word} here." if name == "orange" else f"Look, {word}, here."
        assert COCO.labels(sentence) == (name,), word


@pytest.mark.parametrize("name", COCO.names)
def test_no_exclusion_alone_gives_its_class(name: str) -> None:
    for phrase in _plain(COCO.exclusions[name]):
        assert name not in COCO.labels(f"look, {phrase}, there"), phrase


def _sample() -> list[tuple[str, set[str]]]:
    """Captions of the real sample, and the classes that its annotators marked in the image."""
    found = []
    for split in ("train2017", "val2017"):
        captions = json.loads((ANNOTATIONS / f"captions_{split}.json").read_text(encoding="utf-8"))
        instances = json.loads((ANNOTATIONS / f"instances_{split}.json").read_text(encoding="utf-8"))
        names = {category["id"]: category["name"] for category in instances["categories"]}
        present: dict[int, set[str]] = defaultdict(set)
        for instance in instances["annotations"]:
            present[instance["image_id"]].add(names[instance["category_id"]])
        found += [(caption["caption"], present[caption["image_id"]]) for caption in captions["annotations"]]
    return found


@pytest.mark.skipif(not ANNOTATIONS.is_dir(), reason=f"no COCO sample in {ANNOTATIONS}")
def test_what_is_mined_from_real_captions_is_in_the_images() -> None:
    sample = [(set(COCO.labels(caption)), present) for caption, present in _sample()]
    mined = sum(len(labels) for labels, _ in sample)
    assert mined > 1000
    assert sum(len(labels & present) for labels, present in sample) / mined >= 0.90


@pytest.mark.skipif(not ANNOTATIONS.is_dir(), reason=f"no COCO sample in {ANNOTATIONS}")
def test_the_classes_are_those_of_coco_in_their_order() -> None:
    categories = json.loads((ANNOTATIONS / "instances_val2017.json").read_text(encoding="utf-8"))["categories"]
    assert COCO.names == tuple(category["name"] for category in sorted(categories, key=lambda entry: entry["id"]))
