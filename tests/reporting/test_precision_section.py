from __future__ import annotations

import base64
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from t2ipal.reporting.precision_section import OPEN_CHARTS, POINTS, curve, precision_section

TARGETS = np.array([[1, 0], [0, 0], [1, 0], [0, 0]])
VALUES = np.array([[4.0, 1], [3, 2], [2, 3], [1, 4]])


def test_a_short_curve_has_every_point_of_the_definition() -> None:
    precision, recall, _ = precision_recall_curve(TARGETS[:, 0], VALUES[:, 0])
    wanted = {(round(r, 9), round(p, 9)) for r, p in zip(recall[:-1], precision[:-1], strict=True)}
    found = {(round(r, 9), round(p, 9)) for r, p in curve(VALUES[:, 0], TARGETS[:, 0])}
    # Of several precisions at one recall the first, which is the highest, is drawn.
    assert found <= wanted and {r for r, _ in found} == {0.5, 1.0}
    assert (0.5, 1.0) in found


def test_a_long_curve_is_thinned_along_recall_and_keeps_its_ends() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random(20_000) < 0.3).astype(np.int8)
    points = curve(rng.normal(size=20_000) + targets, targets)
    assert len(points) <= POINTS
    assert points[-1, 0] == pytest.approx(1) and points[0, 0] < 0.001
    assert np.abs(np.diff(points[:, 0])).max() < 2 / POINTS


def test_a_class_without_a_positive_has_no_curve() -> None:
    assert curve(VALUES[:, 1], TARGETS[:, 1]).shape == (0, 2)


def test_each_class_with_a_positive_has_a_chart_with_a_line_for_each_method(tmp_path: Path, write_scores) -> None:
    paths = {name: write_scores(tmp_path / f"{name}.parquet", TARGETS, VALUES) for name in ("tai-dpt", "t2i-pal")}
    content = precision_section(paths, 3).content
    (chart,) = content["open"]
    assert chart.name == "cat" and "tai-dpt 83.3, t2i-pal 83.3" in chart.words
    drawing = ElementTree.fromstring(base64.b64decode(chart.picture.partition(",")[2]))
    assert len([part for part in drawing if part.tag.endswith("polyline")]) == 2
    assert len({key.colour for key in content["legend"]}) == 2


def test_charts_beyond_the_first_are_folded(tmp_path: Path, write_scores) -> None:
    size = OPEN_CHARTS + 3
    path = write_scores(tmp_path / "s", np.eye(size), np.eye(size), [f"class {n:02d}" for n in range(size)])
    content = precision_section({"tai-dpt": path}, 0).content
    assert (len(content["open"]), len(content["folded"])) == (OPEN_CHARTS, 3)


def test_what_is_absent_or_unknown_is_said(tmp_path: Path, write_scores) -> None:
    assert "is missing" in (precision_section({"tai-dpt": tmp_path / "none"}, 0).absent or "")
    unknown = write_scores(tmp_path / "s", -np.ones((2, 2)), np.ones((2, 2)))
    assert "no curve" in (precision_section({"tai-dpt": unknown}, 0).absent or "")
