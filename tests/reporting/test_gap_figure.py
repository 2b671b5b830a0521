from __future__ import annotations

import base64
import io
import json
import statistics
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from t2ipal.errors import UserError
from t2ipal.evaluation.gap import Modality, measure
from t2ipal.reporting import gap_figure
from t2ipal.reporting.gap_section import modality_gap_section
from t2ipal.reporting.page import _environment

HOSTILE = "</bdi><script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;$\\frac{$\x00"


def gap_of(seed: int, modalities: tuple[str, ...] = ("text", "synthetic", "real"), states: int = 3) -> dict[str, Any]:
    """What the gap stage would have written for random features."""
    rng = np.random.default_rng(seed)
    pool = [
        Modality(name, (rng.normal(size=(20, 6)) + shift).astype(np.float32), rng.integers(-1, 2, (20, 3)))
        for shift, name in enumerate(modalities)
    ]
    names = ("before", "tai-dpt", "t2i-pal", "oracle", "t2i-pal-prompts", "mixed", "seventh")[:states]
    measured = measure(pool, {name: rng.normal(size=(3, 6)) for name in names}, seed)
    header = {"format": 1, "seed": seed, "benchmark": "b", "protocol": "p/20", "backbone": "clip"}
    found: dict[str, Any] = json.loads(json.dumps({**header, "labels": ["cat", "dog", "fox"], **measured}))
    return found


def write(directory: Path, gaps: list[dict[str, Any]]) -> list[Path]:
    paths = [directory / str(index) / "gap.json" for index in range(len(gaps))]
    for path, gap in zip(paths, gaps, strict=True):
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(gap))
    return paths


def rendered(paths: list[Path]) -> str:
    section = modality_gap_section(paths)
    page = _environment().get_template("report.html.j2")
    return page.render(benchmark="b", attribution="", embedded=False, sections=[section])


class Page(HTMLParser):
    """Elements and visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_table_joins_seeds_by_mean_and_sample_deviation() -> None:
    gaps = [gap_of(seed) for seed in range(3)]
    table = gap_figure.gap_table(gaps)
    assert [(row.first, row.second) for row in table.pairs] == [
        ("text", "synthetic"),
        ("text", "real"),
        ("synthetic", "real"),
    ]
    distances = [gap["pairs"][1]["distance"] for gap in gaps]
    assert table.pairs[1].distance == f"{statistics.fmean(distances):.3f} ± {statistics.stdev(distances):.3f}"
    assert [(row.state, row.modality) for row in table.agreements][3:5] == [
        ("tai-dpt", "text"),
        ("tai-dpt", "synthetic"),
    ]
    margins = [gap["states"][1]["modalities"][0]["margin"] for gap in gaps]
    assert table.agreements[3].margin == f"{statistics.fmean(margins):.3f} ± {statistics.stdev(margins):.3f}"


def test_one_seed_has_no_deviation_and_the_unmeasured_is_a_dash() -> None:
    gap = gap_of(0)
    gap["pairs"][0]["separability"] = None
    gap["states"][0]["modalities"][2]["alignment"] = None
    table = gap_figure.gap_table([gap])
    assert table.pairs[0].separability == table.agreements[2].alignment == "–"
    assert table.pairs[0].distance == f"{gap['pairs'][0]['distance']:.3f}"


def _pixels(image: Image.Image, colour: str) -> int:
    """How many pixels have exactly this colour."""
    value = tuple(int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return int((np.asarray(image) == value).all(axis=-1).sum())


def test_every_modality_and_state_is_drawn_in_its_colour() -> None:
    image = gap_figure.draw_projection(gap_of(0, states=2), "centroids")
    assert all(_pixels(image, colour) > 50 for colour, _ in gap_figure._MODALITIES)
    assert _pixels(image, gap_figure._AFTER) > 50
    bars = gap_figure.draw_agreement([gap_of(0), gap_of(1)])
    assert all(_pixels(bars, colour) > 50 for colour, _ in gap_figure._STATES[:3])


def test_a_moved_class_embedding_moves_its_mark_and_the_users_style_moves_nothing() -> None:
    import matplotlib as mpl

    gap = gap_of(0, states=2)
    plain = gap_figure.draw_projection(gap, "principal")
    with mpl.rc_context({"axes.facecolor": "red", "font.size": 20, "text.parse_math": True}):
        styled = gap_figure.draw_projection(gap, "principal")
        assert mpl.rcParams["font.size"] == 20
    assert styled == plain
    gap["projections"][1]["states"][1]["points"][0][0] += 0.3
    assert gap_figure.draw_projection(gap, "principal") != plain


@pytest.mark.parametrize(("modalities", "states"), [(("text",), 1), (("a", "b", "c"), 7)])
def test_fewer_and_more_are_drawn_too_and_nothing_is_cut_off(modalities: tuple[str, ...], states: int) -> None:
    gap = gap_of(0, modalities, states)
    for image in (gap_figure.draw_projection(gap, "principal"), gap_figure.draw_agreement([gap])):
        pixels = np.asarray(image)
        edges = (pixels[:3], pixels[-3:], pixels[:, :3], pixels[:, -3:])
        assert all((edge == 255).all() for edge in edges)
        assert (pixels < 255).any()
    assert gap_figure.draw_agreement([gap]).width == pytest.approx(9.6 * gap_figure.DPI, rel=0.02)


def test_the_section_shows_tables_and_pictures(tmp_path: Path) -> None:
    gaps = [gap_of(seed, states=2) for seed in range(2)]
    paths = write(tmp_path, gaps)
    html = rendered(paths)
    page = Page(html)
    pictures = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(pictures) == 3
    for picture in pictures:
        head, _, encoded = str(picture["src"]).partition(",")
        assert head == "data:image/webp;base64"
        size = Image.open(io.BytesIO(base64.b64decode(encoded))).size
        assert size == (int(str(picture["width"])), int(str(picture["height"])))
        assert picture["alt"]
    table = gap_figure.gap_table(gaps)
    assert all(row.distance in page.text for row in table.pairs)
    assert all(row.margin in page.text for row in table.agreements)
    assert "p/20" in page.text and "over 2 seeds" in page.text


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    text = json.dumps(gap_of(0, states=2))
    for word in ("synthetic", "tai-dpt", "p/20", "clip"):
        text = text.replace(json.dumps(word), json.dumps(HOSTILE))
    page = Page(rendered(write(tmp_path, [json.loads(text)])))
    tags = [tag for tag, _ in page.elements]
    assert "script" not in tags and tags.count("img") == 3
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert page.text.count(HOSTILE.replace("\x00", "\ufffd")) > 5


def test_what_is_absent_is_said(tmp_path: Path) -> None:
    assert "not measured" in str(modality_gap_section([]).absent)
    paths = write(tmp_path, [gap_of(0)])
    missing = tmp_path / "missing" / "gap.json"
    assert str(missing) in str(modality_gap_section([*paths, missing]).absent)
    assert str(missing) in Page(rendered([missing])).text


@pytest.mark.parametrize("key", ["protocol", "backbone", "benchmark", "labels"])
def test_gaps_of_other_conditions_are_not_joined(tmp_path: Path, key: str) -> None:
    paths = write(tmp_path, [gap_of(0), {**gap_of(1), key: ["other"]}])
    with pytest.raises(UserError, match=key):
        modality_gap_section(paths)


@pytest.mark.parametrize("change", [{"format": 2}, {"pairs": None}, {"projections": []}, {"states": [{}]}])
def test_damaged_files_are_named(tmp_path: Path, change: dict[str, Any]) -> None:
    path = write(tmp_path, [{**gap_of(0), **change}])[0]
    with pytest.raises(UserError, match=str(tmp_path)):
        modality_gap_section([path])
    path.write_text("{")
    with pytest.raises(UserError, match=str(path)):
        modality_gap_section([path])
