from __future__ import annotations

import base64
import io
from collections import Counter
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from PIL import Image

from t2ipal.errors import UserError
from t2ipal.reporting.page import render, write_report

VOID = {"meta", "link", "img", "br"}
HOSTILE_CAPTION = "</figcaption><script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;\x00\u202e"
HOSTILE_CLASS = '"><svg onload=alert(3)>{{ 7*7 }}'


class Page(HTMLParser):
    """Elements in order, visible text, and whether tags nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.stack: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if not {"style", "title"} & set(self.stack):
            self.text += data

    def attributes(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def test_the_page_is_well_formed_and_has_its_sections(finished):
    page = Page(render(finished.config))
    assert page.stack == []
    anchors = [attributes["id"] for attributes in page.attributes("section")]
    assert anchors == [
        "results", "classes", "precision", "gain", "captions", "synthetic", "verification", "heatmaps", "mistakes",
        "gap", "times", "settings",
    ]  # fmt: skip
    linked = [attributes["href"] for attributes in page.attributes("a")]
    assert {f"#{anchor}" for anchor in anchors} <= set(linked)
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert set(ids.values()) == {1}


def test_numbers_protocol_and_settings_are_on_the_page(finished):
    text = Page(render(finished.config)).text
    for words in ("54.00 ± 1.41", "openmoji-v1/test-20/resize96", "CF1 top-3", "real training images"):
        assert words in text
    assert "test_images: 20" in text
    assert finished.layout.evaluation("oracle", 3).run in text
    assert "torch" in text


def test_every_picture_is_inlined_decodes_and_has_a_text(finished):
    page = Page(render(finished.config))
    pictures = page.attributes("img")
    assert len(pictures) > 6
    assert sum(picture["src"].startswith("data:image/svg") for picture in pictures) > 10
    for picture in pictures:
        head, _, encoded = picture["src"].partition(",")
        if head == "data:image/svg+xml;base64":
            assert ElementTree.fromstring(base64.b64decode(encoded)).tag.endswith("}svg")
            continue
        assert head == "data:image/webp;base64"
        size = Image.open(io.BytesIO(base64.b64decode(encoded))).size
        assert size == (int(picture["width"]), int(picture["height"]))
        assert picture["alt"]


def test_nothing_is_loaded_and_nothing_runs(finished):
    page = Page(render(finished.config))
    assert not page.attributes("script")
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        if tag != "a":
            links = [attributes.get(name) for name in ("src", "href", "srcset", "data")]
            assert all(link is None or link.startswith("data:") for link in links)
    policy = page.attributes("meta")[1]["content"]
    assert policy.startswith("default-src 'none'")


def test_hostile_captions_and_class_names_stay_text(run):
    names = {HOSTILE_CLASS: 0.5, "<script>alert(4)</script>": 0.25, "日本 👩‍👩‍👧, a\"b'": 1.0}
    for method in run.config.methods:
        for seed in run.config.seeds:
            run.write_metrics(method, seed, per_class_AP=names, protocol="<b onclick='x'>p</b>")
    run.write_shard(run.sample("a", HOSTILE_CAPTION, [HOSTILE_CLASS, "\ud800<i>"]))
    html = render(run.config)
    page = Page(html)
    assert not {"script", "svg", "b", "i"} & {tag for tag, _ in page.elements}
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert HOSTILE_CAPTION.replace("\x00", "\ufffd") in page.text
    assert all(name in page.text for name in names)
    assert html.encode("utf-8").count(b"\x00") == 0


def test_the_sheet_shows_captions_and_labels(finished):
    page = Page(render(finished.config))
    assert "a cat on a mat" in page.text and "a dog" in page.text
    assert "Synthetic image drawn for the caption: a dog" in [picture["alt"] for picture in page.attributes("img")]


def test_the_drawings_are_attributed_wherever_they_are_shown(finished):
    html = render(finished.config)
    synthetic = html[html.index('id="synthetic"') : html.index('id="heatmaps"')]
    heatmaps = html[html.index('id="heatmaps"') : html.index('id="settings"')]
    for part in (synthetic, heatmaps, html[html.index("<footer>") :]):
        assert "OpenMoji" in part and "CC BY-SA 4.0" in part


def test_a_class_without_positives_has_a_dash(finished):
    html = render(finished.config)
    line = html[html.index("<bdi>person</bdi></th>") :].split("</tr>")[0]
    assert line.count("<td>\N{EN DASH}</td>") == len(finished.config.methods)


def test_bars_are_as_long_as_the_numbers(finished):
    html = render(finished.config)
    line = html[html.index("<bdi>cat</bdi></th>") :].split("</tr>")[0]
    assert line.count("width:25.0%") == line.count("25.0<") == len(finished.config.methods)


def test_missing_shards_and_models_are_said_in_one_sentence(run):
    text = Page(render(run.config)).text
    captions = run.layout.directory(run.layout.captions(3)) / "captions.json"
    assert f"The captions of seed 3 are not there: {captions} is missing." in text
    assert f"The synthetic images of seed 3 are not there: {run.shard_path()} is missing." in text
    assert f"The heatmaps of t2i-pal are not there: {run.model_path() / 'model.json'} is missing." in text


def test_a_run_without_t2i_pal_says_so(make_run):
    run = make_run(methods=["comc", "oracle"])
    run.write_all_metrics()
    text = Page(render(run.config)).text
    assert "None of the methods t2i-pal, t2i-pal-prompts, tai-dpt, zero-shot-local and zero-shot is part" in text
    assert "Method tai-dpt, which would be compared here, is not part of this run." in text


def test_a_run_of_captions_alone_says_so_and_looks_at_its_own_method(make_run):
    run = make_run(methods=["zero-shot", "tai-dpt"])
    run.write_all_metrics()
    text = Page(render(run.config)).text
    assert "No method of this run learns from synthetic images." in text
    assert "The heatmaps of tai-dpt are not there" in text


def test_a_damaged_shard_is_an_error_that_names_it(finished):
    finished.shard_path().write_bytes(b"no tar")
    with pytest.raises(UserError) as caught:
        render(finished.config)
    assert str(finished.shard_path()) in str(caught.value)


def test_bytes_are_equal_on_every_run(finished, tmp_path):
    for name in ("a.html", "b.html"):
        write_report(finished.config, tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_place_that_cannot_be_written_is_one_sentence(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the report"):
        write_report(run.config, tmp_path / "file" / "report.html")
