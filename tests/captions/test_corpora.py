from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
import zstandard

from t2ipal.captions.corpora import Line, Tally, find, read
from t2ipal.config import parse
from t2ipal.errors import UserError
from t2ipal.settings import CorpusSettings

ROOT = Path(__file__).resolve().parents[2]
COCO = ROOT.parent / "shared" / "data" / "coco"
PAGE = ROOT / "docs" / "corpora.md"
CAPTIONS = [
    'A dog, "asleep", on a sofa.',
    "Two buses at a stop.",
    "Ein Bär äußert sich — 熊 🐻.",
    "A cat\nunder a chair.",
    "x" * 50_000,
]
IMAGES = [42, 42, 7, 139, 802]
PACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


def coco(captions: list[str], images: list[int]) -> bytes:
    annotations = [
        {"image_id": image, "id": number, "caption": caption}
        for number, (caption, image) in enumerate(zip(captions, images, strict=True))
    ]
    images_ = [{"id": image, "file_name": f"{image:012}.jpg"} for image in sorted(set(images))]
    return json.dumps({"info": {"year": 2014}, "images": images_, "annotations": annotations}, indent=1).encode()


def narratives(captions: list[str], images: list[int]) -> bytes:
    entries = [
        {"dataset_id": "mscoco", "image_id": str(image), "caption": caption, "traces": [[{"x": 0.5, "y": 0.1}]]}
        for caption, image in zip(captions, images, strict=True)
    ]
    return "\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries).encode()


def table(captions: list[str], images: list[int]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(
        [("number", "what is said", "image"), *((0, *pair) for pair in zip(captions, images, strict=True))]
    )
    return text.getvalue().encode()


def lines(captions: list[str], images: list[int]) -> bytes:
    return "\n\n".join(captions).encode()


def parquet(captions: list[str], images: list[int]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": images, "what is said": captions}), buffer, row_group_size=2)
    return buffer.getvalue()


FORMATS: dict[str, tuple[str, Callable[[list[str], list[int]], bytes]]] = {
    "coco": ("json", coco),
    "localized-narratives": ("jsonl", narratives),
    "csv": ("csv", table),
    "text": ("txt", lines),
}


def settings(**changes: Any) -> CorpusSettings:
    return CorpusSettings.model_validate({"column": "what is said", "image_column": "image", **changes})


def places(found: list[Line]) -> list[str]:
    return [line.place.rpartition(" ")[2] for line in found]


@pytest.mark.parametrize("pack", PACK)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("told", ["by suffix", "by content", "by key"])
def test_every_format_gives_its_captions_packed_or_not(tmp_path: Path, name: str, pack: str, told: str) -> None:
    suffix, write = FORMATS[name]
    captions = [text for text in CAPTIONS if name != "text" or "\n" not in text]
    images = [image for text, image in zip(CAPTIONS, IMAGES, strict=True) if name != "text" or "\n" not in text]
    path = tmp_path / (f"captions.{suffix}{pack}" if told == "by suffix" else "captions.data")
    path.write_bytes(PACK[pack](write(captions, images)))
    tally = Tally(0.0)
    found = list(read([path], settings(format=name if told == "by key" else "auto"), tally))
    assert [line.text for line in found] == captions
    assert [line.image_id for line in found] == [None if name == "text" else str(image) for image in images]
    assert (tally.lines, tally.malformed) == (len(captions), 0)
    assert tally.files == [
        {"file": str(path), "format": name, "bytes": path.stat().st_size, "lines": len(captions), "malformed": 0}
    ]


@pytest.mark.parametrize("name", ["captions.parquet", "captions.data"])
def test_parquet_gives_its_captions(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(parquet(CAPTIONS, IMAGES))
    found = list(read([path], settings()))
    assert [(line.text, line.image_id) for line in found] == list(zip(CAPTIONS, map(str, IMAGES), strict=True))
    assert places(found) == ["1", "2", "3", "4", "5"]
    assert found[0].place == f"{path}, row 1"
    assert {line.image_id for line in read([path], settings(image_column=None))} == {None}


def test_tabs_part_the_columns_of_tsv(tmp_path: Path) -> None:
    path = tmp_path / "captions.tsv"
    path.write_text("image\twhat is said\n7\tA dog, a cat\n")
    assert list(read([path], settings())) == [Line("A dog, a cat", "7", f"{path}, line 2")]


@pytest.mark.parametrize(
    ("encoding", "text"), [("latin-1", "café"), ("utf-16", "café 🐻"), ("cp1251", "кот"), ("utf-8", "熊")]
)
@pytest.mark.parametrize("name", FORMATS)
def test_files_are_read_in_the_encoding_that_is_told(tmp_path: Path, name: str, encoding: str, text: str) -> None:
    suffix, write = FORMATS[name]
    path = tmp_path / f"captions.{suffix}"
    path.write_bytes(write([text], [1]).decode().encode(encoding))
    assert [line.text for line in read([path], settings(encoding=encoding))] == [text]


def test_a_byte_order_mark_belongs_to_no_column(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_bytes("what is said,image\nA dog,1\n".encode("utf-8-sig"))
    assert [line.text for line in read([path], settings())] == ["A dog"]


def test_places_are_physical_lines_even_behind_captions_of_several(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_text('number,what is said,image\r\n1,"A dog\n\nand a cat",5\n\n2,A bus,6\n', newline="")
    found = list(read([path], settings()))
    assert [line.text for line in found] == ["A dog\n\nand a cat", "A bus"]
    assert places(found) == ["2", "6"]


BAD = {
    "localized-narratives": (
        b'{"caption": "A dog"}\n{"caption": "A c\n["caption"]\n\n{"text": "A cat"}\n{"caption": 17}\n'
        b'{"caption": null}\n{"caption": "caf\xe9"}\n{"caption": "half \\ud83d"}\n{"caption": "A cat"}\n',
        {"2": "no JSON", "3": "no key 'caption'", "5": "no key 'caption'", "6": "no text", "7": "no text", "8": "utf-8",
         "9": "surrogate"},
    ),
    "coco": (
        b'{"annotations": [{"caption": "A dog"}, {"caption": 17}, 5, [], {"text": "A cat"}, {"caption": "caf\xe9"},'
        b'{"caption": "half \\ud83d"}, {"caption": "A cat"}]}',
        {"2": "no text", "3": "no key 'caption'", "4": "no key 'caption'", "5": "no key 'caption'", "6": "utf-8",
         "7": "surrogate"},
    ),
    "csv": (
        b'number,what is said,image\n1,A dog,4\n2\n3,"A "cat",5\n4,caf\xe9,6\n5,A cat,7\n6,no image\n',
        {"3": "only 1 columns", "4": "no CSV", "5": "utf-8", "7": "only 2 columns"},
    ),
    "text": (b"A dog\ncaf\xe9\nA\0B\nA cat\n", {"2": "utf-8", "3": "utf-8"}),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_malformed_lines_are_counted_with_their_place_and_reason(tmp_path: Path, name: str) -> None:
    content, flaws = BAD[name]
    path = tmp_path / "captions.data"
    path.write_bytes(content)
    tally = Tally(1.0)
    found = list(read([path], settings(format=name), tally))
    assert [line.text for line in found] == ["A dog", "A cat"]
    assert tally.malformed == len(flaws) == tally.files[0]["malformed"]
    assert tally.lines == len(flaws) + 2
    assert len(tally.places) == min(5, len(flaws))
    unit = "annotation" if name == "coco" else "line"
    for told, (number, reason) in zip(tally.places, flaws.items(), strict=False):
        assert told.startswith(f"{path}, {unit} {number}: ")
        assert reason in told


def test_null_and_other_types_in_parquet_are_malformed(tmp_path: Path) -> None:
    path, tally = tmp_path / "captions.parquet", Tally(1.0)
    pq.write_table(pa.table({"what is said": ["A dog", None, "A cat"], "image": [1.0, None, 3.0]}), path)
    assert [(line.text, line.image_id) for line in read([path], settings(), tally)] == [
        ("A dog", "1.0"),
        ("A cat", "3.0"),
    ]
    assert tally.places == [f"{path}, row 2: the caption is no text"]
    pq.write_table(pa.table({"what is said": [1, 2], "image": [1, 2]}), path)
    with pytest.raises(UserError, match=r"2 of 2 lines .*row 1: the caption is no text"):
        list(read([path], settings()))


def test_a_quote_without_end_costs_the_lines_that_it_swallows(tmp_path: Path) -> None:
    path, tally = tmp_path / "captions.csv", Tally(1.0)
    rows = [f"A dog number {number} in the park" for number in range(20_000)]
    rows[100] = f'"{rows[100]}'
    path.write_text("what is said\n" + "\n".join(rows) + "\n")
    found = [line.text for line in read([path], settings(image_column=None), tally)]
    assert tally.lines == 20_000
    assert len(found) + tally.malformed == 20_000
    assert 1000 < tally.malformed < 6000
    assert found == rows[:100] + rows[100 + tally.malformed :]


def _with_bad(path: Path, total: int, bad: list[int]) -> Path:
    path.write_text("".join("{\n" if number in bad else '{"caption": "A dog"}\n' for number in range(1, total + 1)))
    return path


def test_reading_stops_once_the_share_is_passed_behind_a_thousand_lines(tmp_path: Path) -> None:
    path = _with_bad(tmp_path / "a.jsonl", 5000, list(range(5, 5000, 50)))
    tally = Tally(0.01)
    with pytest.raises(UserError) as caught:
        list(read([path], settings(), tally))
    assert tally.lines == 1005
    assert f"21 of 1005 lines cannot be used, first {path}, line 5: it is no JSON" in str(caught.value)
    assert "raise captions.corpus.malformed (0.01)" in str(caught.value)


def test_a_few_malformed_lines_are_put_up_with_and_the_share_is_judged_at_the_end_too(tmp_path: Path) -> None:
    path = _with_bad(tmp_path / "a.jsonl", 200, [3, 7])
    tally = Tally(0.01)
    assert len(list(read([path], settings(), tally))) == 198
    with pytest.raises(UserError, match=r"2 of 200 lines .*, line 3: .*captions\.corpus\.malformed \(0\.009\)"):
        list(read([path], settings(malformed=0.009)))


def test_the_wrong_encoding_is_named_with_its_key(tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    path.write_text("Ein Bär\n" * 10, encoding="latin-1")
    with pytest.raises(
        UserError, match=r"captions\.txt, line 1: it is no text in utf-8 \(captions\.corpus\.encoding\)"
    ):
        list(read([path], settings()))
    path.write_text("A dog\n" * 10, encoding="utf-16")
    with pytest.raises(UserError, match=r"of 1\d lines .*captions\.corpus\.encoding"):
        list(read([path], settings(format="text")))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"[1, 2]", r"a\.json is no JSON behind annotation 0 \(expected \{, found \[\)"),
        ("a.json", b'{"annotations": [{"caption": "A dog"}, {"capt', r"a\.json is no JSON behind annotation 1 \("),
        ("a.json", b'{"images": [{"id": 1}]}', r"a\.json has no 'annotations'.*captions\.corpus\.format"),
        ("a.csv", b"text,image\nA dog,1", r"corpus\.column: there is no column 'what is said'; .*text, image"),
        ("a.csv", b"what is said\nA dog", r"captions\.corpus\.image_column: there is no column 'image'"),
        ("a.csv", b'"what is said', r"a\.csv: the names of columns .* no CSV"),
        ("a.csv", b"", r"captions\.corpus\.column: there is no column"),
        ("a.parquet", b"what is said\nA dog", r"cannot read .*a\.parquet to its end \(.*[Pp]arquet"),
        ("a.parquet", gzip.compress(b"PAR1"), r"a\.parquet is Parquet inside a packed file; unpack it"),
        ("a.txt.gz", gzip.compress(b"A dog\n" * 10)[:-9], r"cannot read .*a\.txt\.gz to its end \(Truncated"),
        ("a.txt.zst", zstandard.compress(b"A dog\n" * 10)[:-5], r"cannot read .*a\.txt\.zst to its end \(Truncated"),
        ("a.txt", b"\n \n", r"captions\.corpus\.files: no line in .*a\.txt"),
    ],
)  # fmt: skip
def test_a_file_that_is_something_else_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read([tmp_path / name], settings()))


def test_a_table_needs_the_name_of_its_column(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,image\nA dog,1")
    with pytest.raises(UserError, match=r"captions\.corpus\.column is needed .*a\.csv has the columns text, image"):
        list(read([path], CorpusSettings()))


def test_patterns_stand_for_their_files_in_order_and_once(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.json", "deep/d.txt", "[x].txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("A dog\n")
    found = find([f"{tmp_path}/c.json", f"{tmp_path}/**/*.txt", f"{tmp_path}/a.txt", f"{tmp_path}/[x].txt"])
    assert [str(path.relative_to(tmp_path)) for path in found] == ["[x].txt", "a.txt", "b.txt", "c.json", "deep/d.txt"]
    texts = [line.place for line in read(found[:3], settings())]
    assert texts == [f"{path}, line 1" for path in found[:3]]


@pytest.mark.parametrize("pattern", ["none.txt", "*.zip", ""])
def test_a_pattern_without_files_is_refused(tmp_path: Path, pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"captions\.corpus\.files: .*; (mend the path|name its files)"):
        find([pattern])
    with pytest.raises(UserError, match=r"captions\.corpus\.files: deep is a folder; name its files, as deep/\*\.txt"):
        find(["deep"])


def test_a_million_characters_without_end_are_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from t2ipal.captions import corpora, streams

    monkeypatch.setattr(streams, "LONGEST", 1000)
    monkeypatch.setattr(corpora, "LONGEST", 1000)
    path, tally = tmp_path / "a.txt", Tally(1.0)
    path.write_text("A dog\n" + "x" * 2500 + "\nA cat\n")
    assert [line.text[:5] for line in read([path], settings(), tally)] == ["A dog", "xxxxx", "A cat"]
    assert tally.places == [f"{path}, line {number}: it has more than 1000 characters" for number in (2, 3)]


def test_progress_tells_megabytes_lines_and_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("A dog in the park at night\n" * 60_000)
    second.write_text("A cat on the sofa in the evening\n" * 30_000)
    assert sum(1 for _ in read([first, second], settings())) == 90_000
    told = capsys.readouterr().err
    assert "corpus, 90000 lines, " in told
    assert " lines/s: 3 of 3 MB" in told


def test_a_terminal_gets_a_bar_with_lines_and_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.delenv("COLUMNS", raising=False)  # a narrow one would cut the bar
    (tmp_path / "a.txt").write_text("A dog in the park at night\n" * 60_000)
    assert sum(1 for _ in read([tmp_path / "a.txt"], settings())) == 60_000
    assert re.search(r"corpus, 60000 lines, \d+ lines/s: 100%.* 2/2 ", capsys.readouterr().err)


@pytest.mark.skipif(not COCO.is_dir(), reason="the sample of real COCO files is not beside the project")
def test_the_real_coco_files_are_read_as_json_reads_them() -> None:
    for split in ("train2017", "val2017"):
        path = COCO / "annotations" / f"captions_{split}.json"
        annotations = json.loads(path.read_bytes())["annotations"]
        found = list(read([path], CorpusSettings()))
        assert len(found) > 390
        assert [(line.text, line.image_id) for line in found] == [
            (entry["caption"], str(entry["image_id"])) for entry in annotations
        ]
    path = COCO / "coco_30k_captions.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = list(read([path], CorpusSettings(column="prompt", image_column="coco_id")))
    assert [(line.text, line.image_id) for line in found] == [(row["prompt"], row["coco_id"]) for row in rows]
    assert len(found) == 30_000


def _examples() -> list[tuple[str, str, str]]:
    """Language, file name and content of the examples on the page."""
    return re.findall(r"```(\w+) ?(\S*)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("captions.json", ["9", "9"]),
        ("narratives.jsonl", ["0a1b", "0a1c"]),
        ("captions.txt", [None, None]),
        ("captions.csv", ["COCO_train2014_000000000009.jpg"] * 2),
    ],
)
def test_the_files_on_the_page_are_read(tmp_path: Path, name: str, images: list[str | None]) -> None:
    (content,) = (content for _, file, content in _examples() if file == name)
    (tmp_path / name).write_text(content, encoding="utf-8")
    found = list(read([tmp_path / name], CorpusSettings(column="text", image_column="image")))
    assert [line.image_id for line in found] == images
    assert all(re.fullmatch(r"[A-Z][a-z, ]+\.", line.text) for line in found)


def test_the_overlays_on_the_page_are_valid_and_find_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlays = [parse(yaml.safe_load(content)).captions for language, _, content in _examples() if language == "yaml"]
    assert [settings.corpus.evaluation_ids for settings in overlays] == [("annotations/instances_val2014.json",), ()]
    monkeypatch.chdir(tmp_path)
    Path("captions.csv").write_text("image,text\n1,A dog\n")
    Path("shards/one").mkdir(parents=True)
    pq.write_table(pa.table({"text": ["A cat"], "image": [2]}), "shards/one/a.parquet")
    found = read(find(overlays[1].corpus.files), overlays[1].corpus)
    assert [(line.text, line.image_id) for line in found] == [("A dog", "1"), ("A cat", "2")]


def test_the_page_explains_every_key_with_its_default() -> None:
    section = PAGE.read_text(encoding="utf-8").split("## Keys", 1)[1].split("\n## ", 1)[0]
    stated = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", section, re.MULTILINE)
    defaults = CorpusSettings().model_dump(mode="json")
    assert {key: yaml.safe_load(value) for key, value in stated} == defaults
