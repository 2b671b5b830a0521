"""Which classes are asked for together."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from t2ipal.captions.companions import Companions
from t2ipal.errors import UserError
from t2ipal.labels import LabelSet

VOC = LabelSet.load("voc2007")


def _draws(companions: Companions, lead: str, count: int = 4000) -> list[tuple[str, ...]]:
    rng = np.random.default_rng(1)
    return [companions.draw(rng, lead) for _ in range(count)]


def test_without_a_table_others_are_drawn_equally_often_and_once() -> None:
    drawn = _draws(Companions(VOC, 3), "cat")
    assert all(found[0] == "cat" and len(set(found)) == len(found) <= 3 for found in drawn)
    sizes = Counter(map(len, drawn))
    assert sizes[1] / 4000 == pytest.approx(0.4, abs=0.03)
    assert sizes[2] / 4000 == pytest.approx(0.3, abs=0.03)
    others = Counter(name for found in drawn for name in found[1:])
    assert set(others) == set(VOC.names) - {"cat"}
    assert max(others.values()) < 1.5 * min(others.values())


def test_a_table_decides_who_stands_beside_whom_both_ways(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("# who sits where\ncat,sofa,3\nperson,cat,1\n\ndog,cat,0\n", encoding="utf-8")
    companions = Companions(VOC, 2, str(table))
    beside = Counter(found[1] for found in _draws(companions, "cat") if len(found) > 1)
    assert set(beside) == {"sofa", "person"}
    assert beside["sofa"] / beside["person"] == pytest.approx(3, rel=0.2)
    assert {found[1:] for found in _draws(companions, "sofa", 50)} == {(), ("cat",)}
    assert set(_draws(companions, "train", 50)) == {("train",)}
    assert set(_draws(companions, "dog", 50)) == {("dog",)}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("cat,sofa", "line 2: expected class,class,weight"),
        ("cat,couch,1", "line 2: there is no class 'couch' in label set voc2007"),
        ("cat,sofa,much", "line 2: needs two different classes and a weight of 0 or more"),
        ("cat,cat,1", "line 2: needs two different"),
        ("cat,sofa,-1", "line 2: needs two different"),
        ("cat,sofa,nan", "line 2: needs two different"),
    ],
)
def test_a_line_that_does_not_fit_is_named(tmp_path: Path, line: str, told: str) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text(f"cat,person,1\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match=f"pairs.csv, {told}"):
        Companions(VOC, 2, str(table))


def test_a_missing_table_is_told() -> None:
    with pytest.raises(UserError, match=r"captions\.template\.pairs gone\.csv: No such file"):
        Companions(VOC, 2, "gone.csv")
