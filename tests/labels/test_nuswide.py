from __future__ import annotations

import pytest

from t2ipal.labels import LabelSet

NUS = LabelSet.load("nuswide")
# Concepts81.txt of NUS-WIDE.
NAMES = (
    "airport animal beach bear birds boats book bridge buildings cars castle cat cityscape clouds computer coral cow "
    "dancing dog earthquake elk fire fish flags flowers food fox frost garden glacier grass harbor horses house lake "
    "leaf map military moon mountain nighttime ocean person plane plants police protest railroad rainbow reflection "
    "road rocks running sand sign sky snow soccer sports statue street sun sunset surf swimmers tattoo temple tiger "
    "tower town toy train tree valley vehicle water waterfall wedding whales window zebra"
)

CASES = {
    # names that are plural, and their singulars
    "a bird": {"birds", "animal"},
    "one whale": {"whales", "animal"},
    "a rock and a cloud": {"rocks", "clouds", "sky"},
    "a flag on a building": {"flags", "buildings"},
    "a swimmer": {"swimmers", "person"},
    "a plant": {"plants"},
    "leaves and grasses": {"leaf", "grass"},
    "a harbour": {"harbor", "water"},
    # classes that another implies
    "a dog and a cat": {"dog", "cat", "animal"},
    "three zebras by a lake": {"zebra", "animal", "lake", "water"},
    "a taxi": {"cars", "vehicle"},
    "a cottage": {"house", "buildings"},
    "a soccer game": {"soccer", "sports"},
    "an elephant": {"animal"},
    # phrases that several classes share
    "a policeman on a horse": {"police", "person", "horses", "animal"},
    "a police car": {"police", "cars", "vehicle"},
    "soldiers with an army tank": {"military", "person"},
    "fighter jets": {"military", "plane"},
    "a wedding cake": {"wedding", "food"},
    "the bride and groom": {"wedding", "person"},
    "a snow-capped mountain": {"snow", "mountain"},
    "a lighthouse": {"buildings", "tower"},
    "dancers on a stage": {"dancing", "person"},
    "a surfer rides a wave": {"surf", "person", "water"},
    # people
    "a man and two children": {"person"},
    "people protest in the street": {"person", "protest", "street"},
    "a rock band": set(),
    "a rock star": {"person"},
    "a snowman": {"snow"},
    "a statue of a man": {"statue"},
    # animals that are none, and food
    "a teddy bear": {"toy"},
    "a hot dog": {"food"},
    "a toy dog": {"toy"},
    "stuffed animals": {"toy"},
    "a horse statue": {"statue"},
    "fried chicken": {"food"},
    "a chicken in a yard": {"birds", "animal"},
    "fish and chips": {"food"},
    "a fish tank": set(),
    "goldfish in a pond": {"fish", "animal", "lake", "water"},
    "grilled salmon": {"food"},
    "jellyfish": {"animal"},
    "a zebra crossing": set(),
    "a tiger lily": {"flowers"},
    "a tiger cub": {"tiger", "animal"},
    "a computer mouse": {"computer"},
    "the Fox News channel": set(),
    "a red fox": {"fox", "animal"},
    "a sea lion": {"animal"},
    "a seagull": {"birds", "animal"},
    "a seahorse": {"fish", "animal"},
    "a ladybug on a leaf": {"animal", "leaf"},
    # fire, water and other words in compounds
    "a fire hydrant": set(),
    "a fire truck": {"vehicle"},
    "firefighters at a house fire": {"person", "fire"},
    "a fireplace": set(),
    "fireworks at night": {"nighttime"},
    "a water bottle": set(),
    "a bottle of water": set(),
    "a watermelon": {"food"},
    "a water tower": {"tower"},
    "a waterfall": {"waterfall", "water"},
    "a swimming pool": {"water"},
    "a pool table": set(),
    "he waves at the crowd": {"person"},
    "waves crashing on the rocks": {"surf", "water", "rocks"},
    "a river bank": {"water"},
    "a sea of people": {"person"},
    "the open sea": {"ocean", "water"},
    "seaweed": {"plants"},
    # plants
    "a power plant": set(),
    "a man plants trees": {"person"},
    "a rose in a vase": {"flowers"},
    "the sun rose over the sea": {"sun", "ocean", "water"},
    "a rose window": {"window"},
    "a flower pot": {"plants"},
    "a flower girl": {"person"},
    "a flower garden": {"flowers", "garden"},
    "a palm tree": {"tree"},
    "in the palm of his hand": set(),
    "an apple tree": {"tree"},
    "a family tree": set(),
    "President Bush": set(),
    "a maple leaf": {"leaf"},
    "a train leaves the station": {"train"},
    "a gold leaf frame": set(),
    "autumn leaves on the ground": {"leaf"},
    "a lawn mower": set(),
    # buildings, town and street
    "a greenhouse": {"buildings"},
    "a green house": {"house", "buildings"},
    "a doghouse": set(),
    "a houseboat": {"boats"},
    "a house cat": {"cat", "animal"},
    "a housewife": set(),
    "building a sandcastle": {"sand"},
    "building blocks": {"toy"},
    "a bouncy castle": set(),
    "a town house": {"house", "buildings"},
    "a temple in Kyoto": {"temple", "buildings"},
    "his temples were grey": set(),
    "a street sign": {"sign"},
    "a street light": set(),
    "a streetcar": {"train"},
    "a road sign": {"sign"},
    "a peace sign": set(),
    "he signs autographs": set(),
    "a dirt road": {"road"},
    "train tracks": {"railroad"},
    "a model train": {"toy"},
    "a train station": {"railroad", "buildings"},
    "a railway bridge": {"railroad", "bridge"},
    "the bridge of his nose": set(),
    "a tower of books": set(),
    # sky and weather
    "a blue sky": {"sky"},
    "skydiving": set(),
    "a skyscraper": {"buildings"},
    "the city skyline": {"cityscape"},
    "the night sky": {"nighttime", "sky"},
    "a night stand": set(),
    "a nightclub": set(),
    "a full moon": {"moon"},
    "on their honeymoon": set(),
    "a sunflower": {"flowers"},
    "sunglasses": set(),
    "the setting sun": {"sun", "sunset"},
    "a cloud of smoke": set(),
    "cloudy skies": {"clouds", "sky"},
    "a rainbow": {"rainbow"},
    "a rainbow trout": {"fish", "animal"},
    "a rainbow umbrella": set(),
    "snowy egrets": {"birds", "animal"},
    "a snow leopard": {"animal"},
    "a snowboard": set(),
    "Jack Frost": set(),
    "hoarfrost on the window": {"frost", "window"},
    # land
    "a sandy beach": {"sand", "beach"},
    "a beach ball": set(),
    "sand paper": set(),
    "a coral reef": {"coral"},
    "a coral dress": set(),
    "a mountain bike": {"vehicle"},
    "a rocking chair": set(),
    "rock and roll": set(),
    "a stone wall": set(),
    "a rocky shore": {"rocks"},
    "silicon valley": set(),
    "a glacier in the Alps": {"glacier", "mountain"},
    "a reflection in the lake": {"reflection", "lake", "water"},
    # activities and sports
    "two girls dancing": {"person", "dancing"},
    "a dance floor": set(),
    "a dog running on grass": {"dog", "animal", "running", "grass"},
    "running shoes": set(),
    "running water": set(),
    "a river running through a town": {"water", "town"},
    "a sports car": {"cars", "vehicle"},
    "a tennis match": {"sports"},
    "tennis shoes": set(),
    "a baseball cap": set(),
    "a surf shop": set(),
    "surfing the web": set(),
    # things
    "a laptop on a desk": {"computer"},
    "a computer desk": set(),
    "navy blue": set(),
    "the Salvation Army": set(),
    "toy soldiers": {"toy"},
    "Microsoft Windows": set(),
    "a stained glass window": {"window"},
    "an airport runway": {"airport"},
    "a tattoo parlor": set(),
    "a tattooed man": {"tattoo", "person"},
    "a flagpole": set(),
    "an American flag": {"flags"},
    "a wedding ring": set(),
    "a road map": {"map"},
    "a cookbook": {"book"},
    "an airplane window": {"window"},
}


@pytest.mark.parametrize(("text", "expected"), CASES.items())
def test_nuswide_words_are_mined(text: str, expected: set[str]) -> None:
    assert set(NUS.labels(text)) == expected


def test_the_concepts_are_those_of_nuswide_in_their_order() -> None:
    assert " ".join(NUS.names) == NAMES
    assert len(NUS.names) == 81


def _plain(phrases: tuple[str, ...]) -> list[str]:
    return [phrase for phrase in phrases if not set(phrase) & set("(<*")]


@pytest.mark.parametrize("name", NUS.names)
def test_every_name_synonym_and_kind_gives_its_own_class_and_what_it_implies(name: str) -> None:
    for word in _plain((name, *NUS.synonyms[name], *NUS.kinds[name])):
        assert set(NUS.labels(f"Look, {word}, here.")) == {name, *NUS.implied(name)}, word


@pytest.mark.parametrize("name", NUS.names)
def test_no_exclusion_alone_gives_its_class(name: str) -> None:
    for phrase in _plain(NUS.exclusions[name]):
        assert name not in NUS.labels(f"look, {phrase}, there"), phrase
