"""The section on surviving labels: its numbers, its sentences, and class names that are no markup."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t2ipal.errors import UserError
from t2ipal.reporting.page import render
from t2ipal.reporting.verification_section import Line, lines, surviving_images, surviving_labels_section
from t2ipal.verification.store import SAME, Scores, write

CLASSES = ["dog", "cat", "bus"]


def _scores(classes: list[str] = CLASSES, warning: str | None = None) -> Scores:
    """Four images without a label have the scores 0 to 3 for every class."""
    labels = [[], [], [], [], [classes[0]], [classes[0], classes[1]], [classes[0]]]
    values = np.array([[0] * 3, [1] * 3, [2] * 3, [3] * 3, [4, 0, 0], [2.5, 1.5, 0], [-1, 0, 0]], dtype=np.float32)
    meta = {"backbone": "RN50", "warning": warning, "labels": classes}
    return Scores([f"k{row}" for row in range(7)], labels, values, meta)


def _write(path: Path, scores: Scores) -> list[Path]:
    write(path, scores)
    return [path]


def test_each_class_has_images_asked_share_and_median():
    # "dog" is asked of images of presence 1, 3/4 and 0; "cat" of one that lacks two equals of six.
    scores = _scores()
    cat = float(scores.presence()[5, 1])
    assert lines(scores, 0.75) == [
        Line("dog", 3, pytest.approx(2 / 3), 0.75),
        Line("cat", 1, float(cat >= 0.75), cat),
        Line("bus", 0, None, None),
    ]
    assert lines(scores, 0.76)[0] == Line("dog", 3, pytest.approx(1 / 3), 0.75)


def test_an_image_survives_with_all_its_labels_and_one_without_labels_always():
    scores = _scores()
    assert surviving_images(scores, 0.0) == 7
    assert surviving_images(scores, 0.5) == 6
    assert surviving_images(scores, 0.9) == 5


def test_missing_parts_are_said_in_one_sentence(tmp_path: Path):
    section = surviving_labels_section([*_write(tmp_path / "a", _scores()), tmp_path / "b"], 3, 0.5)
    assert section.absent is not None and section.content == {}
    assert f"seed 3 are not verified: {tmp_path / 'b'} is missing." in section.absent
    assert "verification_all" in section.absent


def test_a_damaged_part_is_an_error_that_names_it(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"no parquet")
    with pytest.raises(UserError, match=f"verification file {tmp_path / 'a'}"):
        surviving_labels_section([tmp_path / "a"], 3, 0.5)


@pytest.fixture
def page(run: Any):
    """The report of a run whose first seed is verified, and where its part lies."""
    unit = run.layout.verification(run.config.seeds[0])

    def of(scores: Scores) -> str:
        write(run.layout.directory(unit) / f"part-{unit.pieces[0]}.parquet", scores)
        html = render(run.config)
        return html[html.index('<section id="verification"') : html.index('<section id="heatmaps"')]

    return of


def test_numbers_and_their_meaning_are_on_the_page(page):
    html = page(_scores())
    assert "Of 7 images, 6 have a presence of 0.5 or more" in html
    line = html[html.index("<bdi>dog</bdi>") :].split("</tr>")[0]
    assert '<td class="number">3</td>' in line and "66.7<" in line and "0.750" in line
    empty = html[html.index("<bdi>bus</bdi>") :].split("</tr>")[0]
    assert empty.count("–") == 2


@pytest.mark.parametrize("warning", [None, SAME])
def test_a_verifier_that_is_the_evaluated_clip_is_told(page, warning: str | None):
    assert (SAME in page(_scores(warning=warning))) == (warning is not None)


def test_class_names_stay_text_and_bytes_are_equal_on_every_run(page):
    hostile = ['"><script>alert(1)</script>', "{{ 7*7 }}", "<b>bus</b>"]
    html = page(_scores(hostile))
    assert "<script" not in html and "<b>" not in html and "{{ 7*7 }}" in html
    assert html == page(_scores(hostile))


def test_a_run_without_verification_says_so(run):
    html = render(run.config)
    assert "The synthetic images of seed 3 are not verified" in html
