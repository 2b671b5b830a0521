from __future__ import annotations

import pytest

from t2ipal.reporting.gain_section import gain_section

FOUND = {
    "zero-shot": {"cat": 0.9, "dog": 0.9, "fox": 0.9},
    "tai-dpt": {"cat": 0.5, "dog": 0.4, "fox": None},
    "t2i-pal": {"cat": 0.45, "dog": 0.6, "fox": None},
}


def test_the_largest_gain_comes_first_and_classes_without_positives_are_left_out() -> None:
    content = gain_section(FOUND).content
    assert [(gain.name, round(gain.points, 9)) for gain in content["gains"]] == [("dog", 20.0), ("cat", -5.0)]
    assert (content["ahead"], content["scale"]) == (1, pytest.approx(20))
    assert content["mean"] == pytest.approx(7.5)


@pytest.mark.parametrize("missing", ["tai-dpt", "t2i-pal"])
def test_without_one_of_the_two_there_is_a_sentence(missing: str) -> None:
    found = {method: values for method, values in FOUND.items() if method != missing}
    assert missing in (gain_section(found).absent or "")


def test_nothing_measured_is_said() -> None:
    assert gain_section({"tai-dpt": {"cat": None}, "t2i-pal": {"cat": None}}).absent
