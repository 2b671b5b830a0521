from __future__ import annotations

from t2ipal.reporting.examples import evenly, first_of_each


def test_names_are_evenly_spaced_and_in_order():
    assert evenly(list("abcdefgh"), 4) == list("aceg")
    assert evenly(["a"], 4) == ["a"]
    assert len(set(evenly([str(i) for i in range(300)], 24))) == 24


def test_each_class_gets_the_first_item_not_taken_for_another():
    items = [(0, ["dog"]), (1, ["cat", "dog"]), (2, ["cat"]), (3, ["cow"])]
    assert first_of_each(items, ["cat", "cow", "dog"]) == [("cat", 1), ("cow", 3), ("dog", 0)]


def test_classes_that_nothing_shows_are_left_out():
    assert first_of_each([(0, ["dog"])], ["cat", "dog"]) == [("dog", 0)]
    assert first_of_each([(0, ["dog"])], []) == []


def test_reading_stops_when_every_class_has_its_item():
    stream = iter([(0, ["cat"]), (1, ["cat"])])
    assert first_of_each(stream, ["cat"]) == [("cat", 0)]
    assert next(stream)[0] == 1
