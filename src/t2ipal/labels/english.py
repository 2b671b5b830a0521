"""Words that the rules of plurals and spelling make exceptions for."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


IRREGULAR = {
    "person": "people", "child": "children", "man": "men", "woman": "women", "foot": "feet", "tooth": "teeth",
    "goose": "geese", "mongoose": "mongooses", "mouse": "mice", "louse": "lice", "ox": "oxen", "calf": "calves",
    "half": "halves", "knife": "knives", "wife": "wives", "life": "lives", "leaf": "leaves", "loaf": "loaves",
    "shelf": "shelves", "wolf": "wolves", "thief": "thieves", "elf": "elves", "die": "dice",
    "passerby": "passersby", "stomach": "stomachs", "monarch": "monarchs", "quiz": "quizzes",
    "human": "humans", "german": "germans", "roman": "romans", "talisman": "talismans", "ottoman": "ottomans",
    "caiman": "caimans", "phenomenon": "phenomena", "criterion": "criteria", "larva": "larvae", "alga": "algae",
    "oasis": "oases", "basis": "bases", "crisis": "crises", "axis": "axes", "iris": "irises", "tennis": "tennis",
    "potato": "potatoes", "tomato": "tomatoes", "hero": "heroes", "echo": "echoes", "torpedo": "torpedoes",
    "photo": "photos", "piano": "pianos", "video": "videos", "radio": "radios", "studio": "studios", "zoo": "zoos",
    "logo": "logos", "limo": "limos", "taco": "tacos", "burrito": "burritos", "kimono": "kimonos", "disco": "discos",
    "avocado": "avocados", "casino": "casinos", "patio": "patios", "rhino": "rhinos", "hippo": "hippos",
    "bronco": "broncos", "roof": "roofs", "chef": "chefs", "giraffe": "giraffes", "cafe": "cafes", "safe": "safes",
    "ski": "skis", "taxi": "taxis", "bikini": "bikinis", "kiwi": "kiwis", "chili": "chilis", "lens": "lenses",
    "gas": "gases", "bus": "buses", "circus": "circuses", "walrus": "walruses", "campus": "campuses",
    "virus": "viruses", "museum": "museums", "aquarium": "aquariums", "album": "albums", "drum": "drums",
    "plum": "plums", "mum": "mums", "mix": "mixes",
    "bum": "bums", "complex": "complexes", "duplex": "duplexes",
}  # fmt: skip
SEVERAL_PLURALS = {
    "fish": ("fish", "fishes"), "scarf": ("scarves", "scarfs"), "hoof": ("hooves", "hoofs"),
    "dwarf": ("dwarves", "dwarfs"), "wharf": ("wharves", "wharfs"), "octopus": ("octopuses", "octopi"),
    "cactus": ("cactuses", "cacti"), "hippopotamus": ("hippopotamuses", "hippopotami"),
    "crocus": ("crocuses", "croci"), "stadium": ("stadiums", "stadia"), "volcano": ("volcanoes", "volcanos"),
    "mosquito": ("mosquitoes", "mosquitos"), "mango": ("mangoes", "mangos"), "flamingo": ("flamingos", "flamingoes"),
    "buffalo": ("buffaloes", "buffalos", "buffalo"), "tornado": ("tornadoes", "tornados"),
    "domino": ("dominoes", "dominos"), "cargo": ("cargoes", "cargos"), "halo": ("haloes", "halos"),
    "elk": ("elk", "elks"), "squid": ("squid", "squids"), "shrimp": ("shrimp", "shrimps"),
    "salmon": ("salmon", "salmons"), "carp": ("carp", "carps"), "trout": ("trout", "trouts"),
}  # fmt: skip
SAME_PLURAL = _words(
    "sheep deer moose bison swine cattle police offspring cod tuna aircraft watercraft spacecraft hovercraft "
    "rotorcraft series species headquarters crossroads"
)
# Ends of compounds that take the plural of the word alone: bookshelf, bookshelves.
COMPOUND_ENDS = (
    "woman", "child", "person", "foot", "tooth", "mouse", "knife", "wife", "leaf", "loaf", "shelf", "wolf", "fish",
    "calf", "deer", "bus", "cactus", "buffalo",
)  # fmt: skip
# Nouns in -s that have no singular, or whose singular means something else ("a glass" is no pair of glasses).
PLURAL_ONLY = _words(
    "glasses sunglasses eyeglasses spectacles goggles binoculars scissors shears pliers tweezers tongs trousers pants "
    "jeans shorts leggings tights pajamas pyjamas overalls clothes goods arms news sports athletics gymnastics physics "
    "stairs surroundings outskirts fireworks remains customs"
)
SINGULAR_IN_S = _words(
    "gas lens canvas atlas christmas pancreas texas kansas yes cosmos chaos tennis chess swiss molasses asparagus "
    "rhinoceros albatross"
)
PLURAL_IN_US = _words("emus menus gnus")
SINGULAR_IN_E = _words("movie cookie zombie brownie smoothie selfie hoodie birdie doggie ache headache axe cache")

SPELLINGS = (
    ("aeroplane", "airplane"), ("aluminium", "aluminum"), ("analogue", "analog"), ("armour", "armor"),
    ("armoured", "armored"), ("artefact", "artifact"), ("axe", "ax"), ("behaviour", "behavior"), ("calibre", "caliber"),
    ("catalogue", "catalog"), ("centre", "center"), ("chequered", "checkered"), ("chilli", "chili"),
    ("colour", "color"), ("coloured", "colored"), ("cosy", "cozy"), ("disc", "disk"), ("doughnut", "donut"),
    ("dryer", "drier"), ("favourite", "favorite"), ("fibre", "fiber"), ("flavour", "flavor"), ("grey", "gray"),
    ("harbour", "harbor"), ("jeweller", "jeweler"), ("jewellery", "jewelry"), ("kerb", "curb"),
    ("licence", "license"), ("litre", "liter"), ("lustre", "luster"), ("metre", "meter"), ("mould", "mold"),
    ("moustache", "mustache"), ("neighbour", "neighbor"), ("neighbourhood", "neighborhood"), ("parlour", "parlor"),
    ("plough", "plow"), ("programme", "program"), ("pyjamas", "pajamas"), ("racket", "racquet"), ("sabre", "saber"),
    ("sceptre", "scepter"), ("spectre", "specter"), ("sulphur", "sulfur"), ("theatre", "theater"),
    ("traveller", "traveler"), ("tyre", "tire"), ("vapour", "vapor"), ("whisky", "whiskey"), ("woollen", "woolen"),
    ("yoghurt", "yogurt"),
)  # fmt: skip
# Second words of compounds. "ring" is none ("her ring"), nor is "pan" ("Japan").
COMPOUND_HEADS = (
    "ball band bag bath bed bell bench bike bird board boarder boat book bottle bowl box boy brush cake car card "
    "case cat chair cloth coat cup cycle dog door fall field fighter fish flower fly garden girl glass guard gun "
    "hat horse house keeper knife lamp light line maker man mill mower pack pad paper park phone plane plant plate "
    "pot rack rider road room screen shed shelf ship shirt shoe shop skate stand station stick stone stool storm "
    "suit table tower towel tree truck tub wagon walk wall watch wheel woman wood worm yard"
)
# "A green house" is no greenhouse: these are no first word of two.
ADJECTIVES = _words(
    "big black blue bright broad brown clean cold dark dead double dry fat fast flat free fresh full gold golden good "
    "great green grey gray half hard heavy high home large light little long low mad new old open own pale pink plain "
    "purple red rough round short silver slow small smooth soft square straight sweet tall thin top warm wet white "
    "wide wild yellow young"
)
FUNCTION_WORDS = _words(
    "a an the and or of in on at to by for with from into under down up its it's his her their no s"
)
