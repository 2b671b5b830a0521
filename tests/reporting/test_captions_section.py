"""The section on captions: its numbers, its marks, its sentences, and captions that are no markup."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from t2ipal.captions.caption import Caption, mined
from t2ipal.captions.manifest import manifest
from t2ipal.captions.mixture import Entry, Mixture
from t2ipal.captions.stage import SCHEMA, row, write_captions
from t2ipal.io import write_json
from t2ipal.labels import LabelSet
from t2ipal.reporting.captions_section import (
    EXAMPLES,
    LETTERS,
    ClassLine,
    Piece,
    SourceLine,
    captions_of_seed_section,
    class_lines,
    examples,
    pieces,
    source_lines,
)
from t2ipal.reporting.page import _environment, render

VOC = LabelSet.load("voc2007")
HOSTILE = "</mark></bdi><script>alert(1)</script> a \x1bdog & a cat\"'><img src=x onerror=alert(2)>"


def of(text: str, *requested: str, source: str = "llm") -> Caption:
    return mined(VOC, text, source, requested)


CAPTIONS = [
    of("a kitten beside a dog", "cat", "dog"),
    of("two dogs", "dog", "person"),
    of("a dog at night", "dog", source="template"),
    of("a man and his dog", source="corpus"),
    of("a puppy", "dog", source="template"),
]


def told(captions: list[Caption], names: tuple[str, ...] = VOC.names) -> dict[str, Any]:
    """The manifest as it is read: JSON, whose keys are sorted."""
    mixture = Mixture(tuple(Entry(caption) for caption in captions))
    document = {
        **manifest(mixture, names, {"template": {}, "llm": {"model": "m"}, "corpus": {}}),
        "topped_up": {"llm": {"dog": 1, "cat": 3}},
        "tokens": {"most": 90, "context": 77, "truncated": 1},
        "settings": {"tokenizer": "ViT-B-32"},
    }
    found: dict[str, Any] = json.loads(json.dumps(document, sort_keys=True))
    return found


def write(directory: Path, captions: list[Caption], names: tuple[str, ...] = VOC.names) -> Path:
    directory.mkdir(exist_ok=True)
    write_json(directory / "captions.json", told(captions, names))
    rows = [row(caption, 90 if index == 0 else 7, 77) for index, caption in enumerate(captions)]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), directory / "captions.parquet")
    return directory


def rendered(directory: Path, names: tuple[str, ...] = VOC.names) -> str:
    section = captions_of_seed_section(directory, names, 3)
    html = (
        _environment()
        .get_template("report.html.j2")
        .render(benchmark="b", attribution="", embedded=False, sections=[section])
    )
    return html[html.index("<section") : html.index("</section>")]


class Text(HTMLParser):
    """The visible text, and the elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.tags = "", []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data):
        self.text += data


def test_words_of_the_class_and_of_others_are_told_apart():
    caption = CAPTIONS[0]
    found = pieces(caption.text, row(caption, 7, 77)["mentions"], "cat")
    assert found == (Piece("a ", None), Piece("kitten", "own"), Piece(" beside a ", None), Piece("dog", "other"))
    assert pieces("nothing", [], "cat") == (Piece("nothing", None),)


def test_one_word_of_two_classes_is_marked_once_and_as_the_class_s_own():
    spans = [{"label": label, "start": 2, "end": 5, "phrase": "cat"} for label in ("animal", "cat")]
    assert pieces("a cat", spans, "cat") == pieces("a cat", spans, "animal") == (Piece("a ", None), Piece("cat", "own"))
    assert pieces("a cat", spans, "dog")[1] == Piece("cat", "other")


@pytest.mark.parametrize(("start", "end"), [(-3, 2), (3, 3), (4, 1), (0, 99), (90, 99)])
def test_no_span_loses_or_doubles_a_letter(start: int, end: int):
    spans = [{"label": "cat", "start": 2, "end": 4}, {"label": "dog", "start": start, "end": end}]
    assert "".join(piece.text for piece in pieces("abcdefgh", spans, "cat")) == "abcdefgh"


def test_a_long_caption_ends_with_an_ellipsis_within_its_mark_or_without():
    text = "x" * (LETTERS - 3) + "cats and dogs"
    spans = [
        {"label": "cat", "start": LETTERS - 3, "end": LETTERS + 1},
        {"label": "dog", "start": LETTERS + 6, "end": LETTERS + 10},
    ]
    shown = pieces(text, spans, "cat")
    assert [piece.mark for piece in shown] == [None, "own", None]
    assert "".join(piece.text for piece in shown) == text[: LETTERS - 1] + "…"


def test_each_source_gives_an_example_before_any_gives_a_second():
    found = examples((row(caption, 7, 77) for caption in CAPTIONS), VOC.names)
    texts = ["".join(piece.text for piece in example.pieces) for example in found["dog"]]
    assert texts == ["a kitten beside a dog", "a dog at night", "a man and his dog"]
    assert len(found["dog"]) == EXAMPLES and found["bus"] == []
    assert [example.source for example in found["person"]] == ["corpus"]


def test_sources_have_counts_agreement_and_how_often_a_template_stood_in():
    assert source_lines(told(CAPTIONS)) == [
        SourceLine("llm", 2, 0.5, 4),
        SourceLine("template", 2, 1.0, 0),
        SourceLine("corpus", 1, None, 0),
    ]


def test_classes_have_counts_and_their_company_in_the_order_of_the_label_set():
    lines = {line.name: line for line in class_lines(told(CAPTIONS), VOC.names)}
    assert tuple(lines) == VOC.names
    assert lines["dog"] == ClassLine("dog", 4, 5, 4, (("cat", 1), ("person", 1)), 0)
    assert lines["person"] == ClassLine("person", 1, 1, 0, (("dog", 1),), 0)
    assert lines["bus"] == ClassLine("bus", 0, 0, 0, (), 0)


def test_the_page_tells_counts_agreement_and_truncation(tmp_path: Path):
    text = " ".join(Text(rendered(write(tmp_path, CAPTIONS))).text.replace("\xa0", " ").split())
    assert "5 captions of seed 3: 3 name 1 class, 2 name 2 classes." in text
    assert "75.0 % of the captions that were asked for classes name exactly these" in text
    assert "The longest has 90 tokens for ViT-B-32, which reads 77; 1 caption is longer and cut there." in text
    assert "A template stood in for source llm, captions by the class that they were to name: cat 3, dog 1." in text
    assert "llm, 90 tokens (cut): cat dog" in text
    assert "none names it" in text


def test_bars_are_as_long_as_the_counts_and_shares_are_of_what_was_asked(tmp_path: Path):
    html = rendered(write(tmp_path, CAPTIONS))
    line = html[html.index('<th scope="row"><bdi>dog</bdi></th>') :].split("</tr>")[0]
    assert re.findall(r"width:([\d.]+)%", line) == ["80.0", "100.0"]
    assert '<td class="number">100.0</td>' in line
    unasked = html[html.index('<th scope="row"><bdi>bus</bdi></th>') :].split("</tr>")[0]
    assert '<td class="number">–</td>' in unasked


def test_the_heat_map_is_inlined_with_the_frequent_pairs_as_its_text(tmp_path: Path):
    html = rendered(write(tmp_path, [*CAPTIONS, of("dogs and cats, and a puppy", "dog")]))
    source = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', html)
    assert source is not None and b"<svg" in base64.b64decode(source[1])
    assert (
        'alt="Heat map: 2 of 190 pairs of classes are named together in some caption; most often cat and dog (2), '
        'dog and person (1)."' in html
    )


def test_hostile_captions_stay_text_with_their_marks(tmp_path: Path):
    page = Text(rendered(write(tmp_path, [of(HOSTILE, "dog")])))
    assert not {"script", "svg"} & set(page.tags) and page.tags.count("img") == 1
    assert page.text.count(HOSTILE.replace("\x1b", "\N{REPLACEMENT CHARACTER}")) == 2
    assert page.tags.count("mark") == 2 * 2 + 2  # two labels, both marked; and the two of the explanation


def test_hostile_class_names_stay_text(tmp_path: Path):
    names = ("<script>alert(1)</script>", "{{ 7*7 }}", "\"'><svg onload=alert(2)>")
    caption = Caption("a b", "llm", names[:1], names)
    page = Text(rendered(write(tmp_path, [caption], names), names))
    assert not {"script", "svg"} & set(page.tags)
    assert all(name in page.text for name in names)


@pytest.mark.parametrize(("count", "folded"), [(24, False), (25, True)])
def test_examples_of_many_classes_are_folded(tmp_path: Path, count: int, folded: bool):
    names = (*VOC.names, *(f"extra {index}" for index in range(5)))[:count]
    html = rendered(write(tmp_path, CAPTIONS, names), names)
    assert (f"<summary>Examples of {count} classes</summary>" in html) == folded
    assert html.count("<details>") == html.count("</details>") == 1 + 2 * folded


@pytest.mark.parametrize("name", ["captions.json", "captions.parquet"])
def test_a_missing_file_is_said_in_one_sentence(tmp_path: Path, name: str):
    (write(tmp_path, CAPTIONS) / name).unlink()
    section = captions_of_seed_section(tmp_path, VOC.names, 3)
    assert section.absent == f"The captions of seed 3 are not there: {tmp_path / name} is missing."
    assert section.content == {}


def _manifest(directory: Path, **changes: Any) -> None:
    write_json(directory / "captions.json", {**told(CAPTIONS), **changes})


def _without(directory: Path, column: str) -> None:
    path = directory / "captions.parquet"
    pq.write_table(pq.read_table(path).drop_columns([column]), path)


DAMAGES = {
    "no JSON": ("captions.json", lambda d: (d / "captions.json").write_text("{")),
    "no text": ("captions.json", lambda d: (d / "captions.json").write_bytes(b"\xff\xfe")),
    "no object": ("captions.json", lambda d: (d / "captions.json").write_text("[1]")),
    "an old form": ("captions.json", lambda d: (d / "captions.json").write_text('{"count": 5}')),
    "other pairs": ("captions.json", lambda d: _manifest(d, pairs={"fox": {"dog": 1}})),
    "other classes": ("captions.json", lambda d: _manifest(d, per_class={})),
    "no number": ("captions.json", lambda d: _manifest(d, agreement="high")),
    "no Parquet": ("captions.parquet", lambda d: (d / "captions.parquet").write_bytes(b"PAR1")),
    "fewer rows": ("captions.parquet", lambda d: _manifest(d, count=6)),
    "no column": ("captions.parquet", lambda d: _without(d, "mentions")),
    "cut": ("captions.parquet", lambda d: (d / "captions.parquet").write_bytes(_tail(d / "captions.parquet"))),
}


def _tail(path: Path) -> bytes:
    """The file with zeros in place of its first column's data: the footer is whole."""
    data = path.read_bytes()
    return b"PAR1" + bytes(200) + data[204:]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_said_in_one_sentence(tmp_path: Path, damage: str):
    name, spoil = DAMAGES[damage]
    spoil(write(tmp_path, CAPTIONS))
    section = captions_of_seed_section(tmp_path, VOC.names, 3)
    assert section.absent is not None and section.content == {}
    assert section.absent.startswith(f"The captions of seed 3 cannot be shown: {tmp_path / name} is damaged (")
    assert section.absent.endswith(f"); delete {tmp_path} and run again.") and "\n" not in section.absent


def test_bytes_are_equal_on_every_run(tmp_path: Path):
    write(tmp_path, CAPTIONS)
    assert rendered(tmp_path) == rendered(tmp_path)


def test_what_the_stage_writes_is_on_the_page(run: Any):
    unit = run.layout.captions(run.config.seeds[0])
    path = run.layout.directory(unit) / "captions.parquet"
    write_captions(unit.settings, path)
    html = render(run.config)
    section = Text(html[html.index('<section id="captions"') : html.index('<section id="synthetic"')]).text
    assert "10 captions of seed 3" in section and "template" in section
    assert pq.read_table(path)["text"][0].as_py() in section


def test_a_run_that_reads_no_captions_says_so(make_run: Any):
    run = make_run(methods=["zero-shot", "oracle"])
    run.write_all_metrics()
    assert "No method of this run learns from captions." in render(run.config)
