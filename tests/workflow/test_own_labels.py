"""The way of docs/own-labels.md on the real DAG: a list of labels, a folder of pictures, a table of what is in them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from t2ipal import benchmarks
from t2ipal.settings import BenchmarkSettings

if TYPE_CHECKING:
    from conftest import Project

pytestmark = pytest.mark.slow

CLASSES = ("bird", "car", "dog", "person")
PICTURES = 24
PAGE = Path(__file__).resolve().parents[2] / "docs" / "own-labels.md"
# The embedded CLIP in place of the one that is downloaded, and less to learn.
SMALL = {
    "features": {"backbone": "local-dir:src/t2ipal/pack/models/clip", "pretrained": None, "input_size": None},
    "captions": {"total": 40, "tokenizer": "local-dir:src/t2ipal/pack/models/clip"},
    "prompts": {"length": 4},
    "training": {"epochs": 2, "batch_size": 16},
}


@pytest.fixture(scope="module")
def shown() -> dict[str, list[str]]:
    """What each picture shows of the classes."""
    return {}


@pytest.fixture(scope="module")
def recognised(new_project: Callable[[str], Project], shown: dict[str, list[str]]) -> Project:
    """The finished run on pictures of which nothing is said."""
    project = new_project("own")
    # As the page has it, with other classes.
    (project.root / "labels.yaml").write_text(f"classes: [{', '.join(CLASSES)}]\n")
    (project.root / "photos").mkdir()
    settings = BenchmarkSettings(labels="voc2007", val_images=PICTURES)
    split = benchmarks.load(settings).split("val")
    for index, labels in enumerate(split.labels):
        split.image(index).save(project.root / "photos" / f"{index:02d}.png")
        shown[f"{index:02d}.png"] = [label for label in labels if label in CLASSES]
    (project.root / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    project = project.with_files("config/own-labels.yaml")
    done = project.run(overlay=SMALL)
    (project.root / "terminal.txt").write_text(done.stdout)
    return project


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_every_picture_has_a_row_and_a_broken_one_is_named(recognised):
    (path,) = recognised.results.glob("evaluation/own-tai-dpt-*/predictions.csv")
    rows = _rows(path)
    assert [row["image"] for row in rows] == [f"{index:02d}.png" for index in range(PICTURES)]
    assert list(rows[0]) == ["image", "labels", *CLASSES]
    assert all(0 <= float(row[name]) <= 1 for row in rows for name in CLASSES)
    record = json.loads(path.with_name("metrics.json").read_text())
    assert [entry["file"] for entry in record["missing"]] == ["broken.jpg"]
    assert record["protocol"].startswith(f"own/test-{PICTURES + 1}/") and record["protocol"].endswith("/missing-1")


def test_the_terminal_says_where_they_are_and_that_nothing_is_measured(recognised):
    said = (recognised.root / "terminal.txt").read_text()
    assert "nothing is measured" in said
    named = re.findall(r"^results/evaluation/\S+predictions\.csv$", said, flags=re.M)
    assert len(named) == 2 and all((recognised.root / path).is_file() for path in named)


def test_once_labels_are_said_they_are_measured_with_the_models_that_are_there(recognised, shown, tmp_path):
    project = recognised.copy(tmp_path / "project").with_files("config/own-labels.yaml")
    lines = ["image,labels", *(f"{name},{'; '.join(labels)}" for name, labels in shown.items())]
    (project.root / "said.csv").write_text("\n".join(lines) + "\n")
    overlay = {**SMALL, "benchmark": {"annotations": "said.csv"}}
    assert "training" not in project.planned(overlay=overlay)
    before = set(project.results.glob("evaluation/*/metrics.json"))
    assert "mAP" in project.run(overlay=overlay).stdout
    for path in set(project.results.glob("evaluation/*/metrics.json")) - before:
        record = json.loads(path.read_text())
        found = {name: of["positives"] for name, of in record["per_class"].items()}
        assert found == {name: sum(name in labels for labels in shown.values()) for name in CLASSES}
        assert record["images"] == PICTURES and "missing" not in record["protocol"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("image,labels\n00.png,hedgehog\n", "'hedgehog'"),
        ("image,labels\n00.png,dog\n00.png,dog\n", "twice"),
        ("photo,what\n00.png,dog\n", "image"),
    ],
)
def test_annotations_that_do_not_fit_end_in_one_sentence(recognised, content, sentence, tmp_path):
    project = recognised.copy(tmp_path / "project").with_files("config/own-labels.yaml")
    (project.root / "said.csv").write_text(content)
    done = project.snakemake(overlay={**SMALL, "benchmark": {"annotations": "said.csv"}})
    said = done.stdout + done.stderr
    assert done.returncode != 0 and "Traceback" not in said
    (line,) = {line for line in said.splitlines() if line.startswith("t2ipal: error:")}
    assert sentence in line and "said.csv" in line


def test_the_page_names_the_files_of_the_shipped_configuration():
    shipped = yaml.safe_load((PAGE.parents[1] / "config" / "own-labels.yaml").read_text())
    page = PAGE.read_text()
    assert f"`{shipped['benchmark']['labels']}`" in page and f"`{shipped['benchmark']['path']}`" in page
    assert "t2ipal init" in page and "`config/own-labels.yaml`" in page
