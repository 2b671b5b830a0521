"""The section on synthetic images: which are shown, what is said of their labels, and how the shards were drawn."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from t2ipal.errors import UserError
from t2ipal.io import write_json
from t2ipal.reporting.page import _environment
from t2ipal.reporting.synthetic_section import (
    OPEN_CLASSES,
    OPEN_SHARDS,
    ROW,
    Label,
    Presence,
    ShardLine,
    drawn_images_section,
    per_class,
    shard_lines,
    sheets,
    total,
)
from t2ipal.shards import Sample, samples
from t2ipal.verification.store import Scores, write

CLASSES = ["bus", "cat", "dog"]
MANIFEST = {
    "shard": "00000",
    "count": 100,
    "seconds": 20.0,
    "images_per_second": 4.5,
    "device": "cpu",
    "redrawn": 3,
    "failed": 2,
    "truncated": 1,
    "resumed": 10,
}


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (10, 200, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def of(*labels: str, key: str = "k") -> Sample:
    return Sample(key, "a caption", labels, png())


def shown(found: list[Sample], classes: list[str]) -> dict[str, list[tuple[str, ...]]]:
    """The labels of the images on each sheet."""
    sheet = sheets(found, classes, Presence([], 0.5))
    return {name: [tuple(label.name for label in cell.labels) for cell in cells] for name, cells in sheet.items()}


def archive(path: Path, *images: tuple[str, list[str]], bad: tuple[str, ...] = (), **changes: Any) -> Path:
    """A shard of these images (key, labels), those of the keys ``bad`` failed, with its manifest."""
    with tarfile.open(path, "w") as tar:
        for key, labels in images:
            record = json.dumps({"labels": labels, "failed": key in bad}).encode()
            for suffix, data in (("png", png()), ("txt", f"caption {key}".encode()), ("json", record)):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    write_json(path.with_suffix(".json"), {**MANIFEST, **changes})
    return path


def verified(path: Path, values: list[list[float]]) -> list[Path]:
    """Scores of images k0, k1, ... for bus, cat and dog, none of which carries a label."""
    keys = [f"k{row}" for row in range(len(values))]
    meta = {"backbone": "RN50", "warning": None, "labels": CLASSES}
    write(path, Scores(keys, [[] for _ in keys], np.array(values, dtype=np.float32), meta))
    return [path]


def rendered(shards: list[Path], parts: list[Path] | None = None, classes: list[str] = CLASSES) -> str:
    section = drawn_images_section(shards, parts or [], classes, "m", 3, 0.5)
    html = (
        _environment()
        .get_template("report.html.j2")
        .render(benchmark="b", attribution="", embedded=False, sections=[section])
    )
    return html[html.index("<section") : html.index("</section>")].replace("&nbsp;", " ")


def test_a_class_has_its_first_images_and_no_more_than_a_row():
    found = [*[of("cat", key=str(index)) for index in range(ROW + 3)], of("dog")]
    assert shown(found, CLASSES) == {"bus": [], "cat": [("cat",)] * ROW, "dog": [("dog",)]}


def test_an_image_stands_for_that_of_its_classes_which_has_fewest():
    found = [of("cat"), of("cat", "dog"), of("bus", "cat", "dog"), of("dog")]
    assert shown(found, CLASSES) == {
        "bus": [("bus", "cat", "dog")],
        "cat": [("cat",)],
        "dog": [("cat", "dog"), ("dog",)],
    }


def test_reading_ends_when_every_class_has_its_row():
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield of("cat")

    sheets(endless(), ["cat"], Presence([], 0.5))
    assert taken == ROW


def test_nothing_is_read_for_no_class():
    def unread():
        raise AssertionError
        yield

    assert sheets(unread(), [], Presence([], 0.5)) == {}


@pytest.mark.parametrize(("classes", "images"), [(1, 6), (20, 6), (40, 6), (80, 3), (81, 2), (1000, 2)])
def test_many_classes_have_fewer_images_each(classes: int, images: int):
    assert per_class(classes) == images


def test_presence_is_that_of_the_image_and_the_class_rounded_down(tmp_path: Path):
    # Among four images the presence is 1/8, 3/8, 5/8 and 7/8.
    known = Presence(verified(tmp_path / "a", [[0, 3, 0], [1, 2, 0], [2, 1, 0], [3, 0, 0]]), 0.5)
    assert known.label("k0", "bus") == Label("bus", 12, True)
    assert known.label("k0", "cat") == Label("cat", 87, False)
    assert known.label("k3", "dog") == Label("dog", 50, False)
    assert Presence(verified(tmp_path / "b", [[0, 0, 0], [1, 1, 1]]), 0.26).label("k0", "bus") == Label("bus", 25, True)


def test_what_was_not_verified_has_no_presence(tmp_path: Path):
    parts = verified(tmp_path / "a", [[0, 0, 0]])
    assert Presence(parts, 0.5).label("k7", "bus") == Label("bus", None, False)
    assert Presence(parts, 0.5).label("k0", "fox") == Label("fox", None, False)
    assert Presence([*parts, tmp_path / "missing"], 0.5).label("k0", "bus") == Label("bus", None, False)


def test_a_doubtful_label_is_marked_in_words(tmp_path: Path):
    shard = archive(tmp_path / "shard-00000.tar", ("k0", ["bus", "cat"]), ("x", ["dog"]))
    html = rendered([shard], verified(tmp_path / "part", [[0, 3, 0], [1, 2, 0], [2, 1, 0], [3, 0, 0]]))
    assert '<span class="label doubtful"><bdi>bus</bdi> 12 %, below 50 %</span>' in html
    assert '<span class="label"><bdi>cat</bdi> 87 %</span>' in html
    assert '<span class="label"><bdi>dog</bdi></span>' in html
    assert "presence" in html and "presence" not in rendered([shard])


def test_a_damaged_part_is_an_error_that_names_it(tmp_path: Path):
    shard = archive(tmp_path / "shard-00000.tar", ("k0", ["bus"]))
    (tmp_path / "part").write_bytes(b"no parquet")
    with pytest.raises(UserError, match=f"verification file {tmp_path / 'part'}"):
        rendered([shard], [tmp_path / "part"])


def test_classes_without_an_image_are_named(tmp_path: Path):
    html = rendered([archive(tmp_path / "shard-00000.tar", ("k0", ["bus"]))])
    assert "Without an image of their own: <bdi>cat</bdi>, <bdi>dog</bdi>." in html
    assert "<h4><bdi>bus</bdi></h4>" in html and "<h4><bdi>cat</bdi></h4>" not in html


def test_classes_beyond_the_first_are_folded(tmp_path: Path):
    classes = [f"class {index:03d}" for index in range(OPEN_CLASSES + 2)]
    shard = archive(tmp_path / "shard-00000.tar", *[(f"k{index}", [name]) for index, name in enumerate(classes)])
    html = rendered([shard], classes=classes)
    assert html.count("<h4>") == OPEN_CLASSES
    assert html.count("<details>") == html.count("</details>") == 2
    assert f"<summary><bdi>{classes[-1]}</bdi></summary>" in html
    assert html.count("<img ") == len(classes)


def test_failed_images_are_counted_and_not_shown(tmp_path: Path):
    path = tmp_path / "shard-00000.tar"
    archive(path, ("a", ["cat"]), ("b", ["dog"]), bad=("b",), count=2, failed=1)
    html = rendered([path])
    assert "1 of 2 images failed, and are not shown." in html
    assert html.count("<img ") == 1 and len(list(samples(path))) == 1


def test_a_line_tells_what_the_manifest_says(tmp_path: Path):
    write_json(tmp_path / "a.json", MANIFEST)
    write_json(tmp_path / "b.json", {**MANIFEST, "resumed": 100, "seconds": 0.0, "truncated": None})
    (first, second), faults = shard_lines([tmp_path / "a.json", tmp_path / "b.json"])
    assert first == ShardLine("00000", 100, 90, 20.0, "cpu", 3, 2, 1, 10) and first.rate == 4.5
    assert second.rate is None and second.truncated is None and faults == []


def test_the_total_is_the_sum_and_its_rate_that_of_what_was_drawn():
    lines = [
        ShardLine("a", 100, 90, 30.0, "GPU 0", 3, 2, 1, 10),
        ShardLine("b", 50, 0, 5.0, "GPU 1", 0, 1, None, 50),
        ShardLine("c", 100, 100, 20.0, "GPU 1", 4, 0, 2, 0),
    ]
    found = total(lines)
    assert found == ShardLine("all", 250, 190, 50.0, "2 devices", 7, 3, 3, 60)
    assert found.rate == pytest.approx(190 / 50)
    assert total(lines[1:]).device == "GPU 1" and total(lines[1:2]).truncated is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "a.json is missing"),
        ("{", "a.json is damaged ("),
        ("[]", "a.json is damaged ("),
        (json.dumps({**MANIFEST, "count": "many"}), "a.json is damaged ("),
        (json.dumps({"count": 1}), "a.json says nothing of 'resumed'"),
    ],
)
def test_a_manifest_that_cannot_be_read_costs_one_line_only(tmp_path: Path, content: str | None, said: str):
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    write_json(tmp_path / "b.json", MANIFEST)
    lines, faults = shard_lines([tmp_path / "a.json", tmp_path / "b.json"])
    assert len(lines) == len(faults) == 1 and said in faults[0]


def test_the_table_has_a_line_for_each_shard_and_a_total(tmp_path: Path):
    shards = [archive(tmp_path / f"shard-{name}.tar", (name, ["cat"]), shard=name) for name in ("00000", "00001-n5")]
    html = rendered(shards)
    body, foot = html[html.index("Images/s") :].split("<tfoot>")
    assert body.count('<th scope="row">') == 2 and '<th scope="row">00001-n5</th>' in body
    assert '<th scope="row">all</th>' in foot and '<td class="number">200</td>' in foot and "4.50" in foot
    assert "<details>" not in html


def test_many_shards_are_folded_under_their_total(tmp_path: Path):
    count = OPEN_SHARDS + 1
    shards = [archive(tmp_path / f"shard-{n:05d}.tar", (str(n), ["cat"]), shard=f"{n:05d}") for n in range(count)]
    assert f"<summary>{count} shards: {100 * count} images, {3 * count} redrawn, {2 * count} failed</summary>" in (
        rendered(shards)
    )


def test_shards_without_manifests_are_told(tmp_path: Path):
    shard = archive(tmp_path / "shard-00000.tar", ("a", ["cat"]))
    shard.with_suffix(".json").unlink()
    html = rendered([shard])
    assert f"1 of 1 shards have no statistics: {shard.with_suffix('.json')} is missing." in html
    assert "<table>" not in html and "<img " in html


def test_hostile_devices_captions_and_labels_stay_text(tmp_path: Path):
    hostile = "<script>alert(1)</script>"
    html = rendered(
        [archive(tmp_path / "shard-00000.tar", ("a", [hostile]), device=hostile, shard=hostile)], classes=[hostile]
    )
    assert "<script" not in html and html.count("&lt;script&gt;") >= 5
