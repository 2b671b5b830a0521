from __future__ import annotations

import subprocess
import sys

import pytest

from t2ipal.labels import shipped
from t2ipal.labels.plurals import is_plural, plural, plurals, singular


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("dog", "dogs"), ("bus", "buses"), ("fox", "foxes"), ("bench", "benches"), ("lady", "ladies"), ("toy", "toys"),
        ("woman", "women"), ("human", "humans"), ("fire engine", "fire engines"), ("baby calf", "baby calves"),
        ("ox", "oxen"), ("sheep", "sheep"), ("wine glass", "wine glasses"), ("bookshelf", "bookshelves"),
        ("school bus", "school buses"), ("snowman", "snowmen"), ("mongoose", "mongooses"), ("TV", "TVs"),
        ("kangaroo", "kangaroos"), ("cliff", "cliffs"), ("taxi", "taxis"), ("scissors", "scissors"),
        ("man of war", "men of war"), ("mother in law", "mothers in law"),
    ],
)  # fmt: skip
def test_the_usual_plural_needs_no_dictionary(phrase: str, expected: str) -> None:
    assert plural(phrase) == expected


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("gazebo", {"gazebos", "gazeboes"}), ("appendix", {"appendices", "appendixes"}), ("reef", {"reefs"}),
        ("chateau", {"chateaus", "chateaux"}), ("thesis", {"theses"}), ("bacillus", {"bacilli", "bacilluses"}),
        ("coral reef", {"coral reefs"}), ("Japanese", {"Japanese"}),
    ],
)  # fmt: skip
def test_irregular_nouns_are_looked_up_in_inflect(phrase: str, expected: set[str]) -> None:
    assert set(plurals(phrase)) == expected


def test_two_plurals_in_use_are_both_derived() -> None:
    assert plurals("cactus") == ("cactuses", "cacti")
    assert plurals("silk scarf") == ("silk scarves", "silk scarfs")


@pytest.mark.parametrize("phrase", ["birds", "people", "scissors", "firemen", "next to", "trains for"])
def test_what_is_plural_or_no_noun_gets_no_plural(phrase: str) -> None:
    assert plurals(phrase) == ()


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("birds", "bird"), ("street lamps", "street lamp"), ("people", "person"), ("buses", "bus"), ("mice", "mouse"),
        ("skies", "sky"), ("pies", "pie"), ("movies", "movie"), ("glasses", None), ("bus", None), ("tennis", None),
        ("grass", None), ("lens", None), ("lenses", "lens"), ("churches", "church"), ("horses", "horse"),
        ("scissors", None), ("menus", "menu"), ("policemen", "policeman"), ("men", "man"), ("dog", None),
        ("series", None), ("skis", "ski"), ("tomatoes", "tomato"), ("knives", "knife"), ("boxes", "box"),
    ],
)  # fmt: skip
def test_singulars_of_plural_names(phrase: str, expected: str | None) -> None:
    assert singular(phrase) == expected
    assert is_plural(phrase) == (expected is not None or phrase in ("glasses", "scissors"))


def test_no_shipped_label_set_pays_for_the_import_of_inflect() -> None:
    code = f"import sys; from t2ipal.labels import LabelSet; [LabelSet.load(n) for n in {shipped()!r}]"
    shown = subprocess.run(
        [sys.executable, "-c", f"{code}; print('inflect' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "False"
