"""The words the embedded models learn from: web-like alt texts for CLIP, full captions for the generator.

Both are written from a scene. Alt texts have the faults of texts on the web. They are *iconic*: they name the
most salient object (a dog rather than the chair beside it), sometimes a second one, sometimes only a kind ("an
animal"), a place, or nothing that is seen; they mention what usually goes with an object though it is not in
the picture; and some belong to another picture (clip.misplace). So the CLIP trained on them is imperfect as
real ones are. The frames here are other ones than the caption stage's templates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from t2ipal.openmoji.drawings import Drawing
from t2ipal.openmoji.scenes import Scene, SceneObject

PLACES = {
    "plain": ("on a plain background", ""),
    "sky": ("in the sky", "under a clear sky", ""),
    "grass": ("on the grass", "in a field", "in the park", ""),
    "sea": ("on the water", "at sea", "by the sea", ""),
    "beach": ("on the beach", "in the sand", ""),
    "road": ("on the road", "in the street", ""),
    "room": ("in a room", "indoors", "at home", ""),
    "snow": ("in the snow", "in winter", ""),
    "night": ("at night", "in the dark", ""),
    "stripes": ("on a striped background", "with stripes", ""),
}
KINDS = {
    "animal": ("bird", "cat", "cow", "dog", "horse", "sheep"),
    "vehicle": ("aeroplane", "bicycle", "boat", "bus", "car", "motorbike", "train"),
    "furniture": ("chair", "diningtable", "sofa"),
}
# How readily a caption names a class, relative to 1 for the rest: people caption animals, not furniture.
SALIENCE = {
    "person": 0.5, "bottle": 0.35, "chair": 0.3, "diningtable": 0.35, "pottedplant": 0.3, "tvmonitor": 0.45,
    "sofa": 0.45, "cat": 1.3, "dog": 1.3, "horse": 1.3, "bird": 1.2,
}  # fmt: skip
UNLABELLED_SALIENCE = 0.6
# Words that captions mention with a class whether or not they are seen: the company that things keep.
COMPANY = {
    "aeroplane": ("cloud", "person"), "bicycle": ("man", "car"), "bird": ("tree", "cat"), "boat": ("man", "bird"),
    "bottle": ("table", "chair"), "bus": ("car", "people"), "car": ("bus", "man"), "cat": ("sofa", "dog"),
    "chair": ("table", "sofa"), "cow": ("horse", "sheep"), "diningtable": ("chair", "bottle"), "dog": ("man", "cat"),
    "horse": ("man", "cow"), "motorbike": ("man", "car"), "person": ("dog", "bike"), "pottedplant": ("chair", "tv"),
    "sheep": ("cow", "dog"), "sofa": ("tv", "chair"), "train": ("bus", "people"), "tvmonitor": ("sofa", "table"),
}  # fmt: skip
VAGUE, KIND_ONLY, SECOND, THIRD, UNSEEN, CHATTER = 0.12, 0.08, 0.3, 0.2, 0.2, 0.5
_KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}
_ONE = (
    "{0}", "a {0}", "the {0}", "my {0}", "{0} photo", "photo: {0}", "image of a {0}", "{0} picture",
    "{0} {place}", "a {0} {place}", "{place}, a {0}", "my {0} {place}", "the {0} {place}", "cute {0}",
    "{0} for sale", "old {0}", "new {0} {place}", "look at this {0}", "drawing of a {0}", "{0} clip art",
)  # fmt: skip
_TWO = (
    "{0} and {1}", "a {0} and a {1} {place}", "{0} with {1}", "a {0} with a {1}", "the {0} and the {1} {place}",
    "{0}, {1}", "{0} beside {1} {place}", "my {0} and my {1}",
)  # fmt: skip
_THREE = ("{0}, {1} and {2}", "{0}, {1}, {2} {place}", "a {0}, a {1} and a {2}")
_KIND_FRAMES = ("a {0} {place}", "{0} picture", "some {0} {place}", "{0}", "a kind of {0}")
_VAGUE_FRAMES = (
    "untitled", "best day ever {place}", "a view {place}", "nice picture", "free download", "wallpaper {place}",
    "summer memories", "click to enlarge", "{place}", "home page image", "scene {place}",
)  # fmt: skip
_DENSE = (
    "{list}", "{list} {place}", "a picture of {list}", "a picture of {list} {place}", "an image of {list} {place}",
    "a photo of {list}", "a photo of {list} {place}", "{place} there is {list}", "we see {list} {place}",
    "a scene with {list} {place}", "an illustration of {list}", "{list} can be seen {place}",
    "this shows {list} {place}", "a photograph showing {list} {place}", "{list} stand {place}",
)  # fmt: skip

_WORDS = """
about above after again all almost also always amazing and another any around as at away back beautiful because
before behind below best better between big both bright but buy by called came can caught clear clearly close
closely collection colour come contains could day detail did discover does done down each early easy edition else
end enjoy even ever every everyday example favourite feature featuring few film find first for found frame free from
full fun get give go going gone good got great had hand has have he hello help her here high him his home how i idea
if in inspired is it its just keep kind know last left less let life like little long look looking lots love made
main make many may maybe me meet moment more morning most much must nearby never new next nice no not nothing notice
now of off often old on once one online only open or original other our out over own part perfect place please
plenty popular quality quick quiet quite ready real really right same scene see seen set several she shop shot show
shows side sight simple size small snapshot so some something soon special spot standing stands still stock story
style subject such take taken than that the their them then there these they thing this those three time to today
together too top true two under unique until up us used very view visit was way we well were what when where which
while who why will with within without wonderful world would year yes yet you
"""
_CHATTER = tuple(_WORDS.split())


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def object_name(rng: np.random.Generator, drawing: Drawing, flatten: float = 1.0) -> str:
    """A word for the drawing by its frequency; ``flatten`` < 1 makes rare words less rare."""
    words, counts = zip(*drawing.names, strict=True)
    weights = np.array(counts) ** flatten
    return str(words[rng.choice(len(words), p=weights / weights.sum())])


def _tidy(text: str) -> str:
    return " ".join(text.replace(" ,", ",").split()).strip(" ,")


def _salience(rng: np.random.Generator, item: SceneObject) -> float:
    classes = item.drawing.classes
    known = max(SALIENCE.get(name, 1.0) for name in classes) if classes else UNLABELLED_SALIENCE
    return known * item.look.size**2 * float(np.exp(rng.normal(0, 0.35)))


def _mentions(rng: np.random.Generator, ranked: list[SceneObject]) -> list[str]:
    """The one to three nouns of a caption."""
    named = 1 + (len(ranked) > 1 and rng.random() < SECOND)
    named += named == 2 and len(ranked) > 2 and rng.random() < THIRD
    names = [object_name(rng, item.drawing) for item in ranked[:named]]
    classes = ranked[0].drawing.classes
    if classes and named < 3 and rng.random() < UNSEEN:
        names.append(_pick(rng, COMPANY[classes[0]]))
    return names


def alt_text(rng: np.random.Generator, scene: Scene) -> str:
    """A web-like caption of the scene: names what is most salient, leaves out most of the rest."""
    place = _pick(rng, PLACES[scene.background]) if rng.random() < 0.6 else ""
    if rng.random() < VAGUE:
        return _tidy(_pick(rng, _VAGUE_FRAMES).format(place=place)) or "untitled"
    ranked = sorted(scene.objects, key=lambda item: -_salience(rng, item))
    kind = _KIND_OF.get(ranked[0].drawing.classes[0]) if ranked[0].drawing.classes else None
    if kind and rng.random() < KIND_ONLY:
        return _tidy(_pick(rng, _KIND_FRAMES).format(kind, place=place))
    names = _mentions(rng, ranked)
    frames = (_ONE, _TWO, _THREE)[len(names) - 1]
    return _tidy(_pick(rng, frames).format(*names, place=place))


def chatter(rng: np.random.Generator, text: str) -> str:
    """The text among words that say nothing of the picture, and with punctuation, as half of the web's texts are."""
    if rng.random() < CHATTER:
        before, after = (" ".join(rng.choice(_CHATTER, rng.integers(0, 5))) for _ in range(2))
        text = f"{before}{_pick(rng, (' ', ' ', ': ', ', '))}{text}{_pick(rng, (' ', ' ', ', ', '. '))}{after}"
    return _tidy(text) + _pick(rng, ("", "", "", ".", ".", "!", "..."))


def dense_caption(rng: np.random.Generator, scene: Scene) -> str:
    """A caption that names every object of the scene, in random order."""
    order = rng.permutation(len(scene.objects))
    names = [f"a {object_name(rng, scene.objects[i].drawing, flatten=0.0)}" for i in order]
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    place = _pick(rng, PLACES[scene.background])
    return _tidy(_pick(rng, _DENSE).format(list=listed, place=place))
