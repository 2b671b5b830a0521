"""A benchmark of files on the real DAG: 200 real photographs, RN50 at 224 of random weights, the embedded generator."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest

if TYPE_CHECKING:
    from conftest import Project

pytestmark = pytest.mark.slow

VOCDEVKIT = Path(__file__).resolve().parents[3] / "shared" / "data" / "VOCdevkit"
IMAGES = 200
METHODS = ("zero-shot", "t2i-pal")


@pytest.fixture(scope="module")
def vocdevkit() -> Path:
    if not VOCDEVKIT.is_dir():
        pytest.skip(f"there are no real photographs in {VOCDEVKIT}")
    return VOCDEVKIT


@pytest.fixture(scope="module")
def rn50(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RN50 as open_clip builds it, of random weights, in the layout of ``local-dir:``."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    directory = tmp_path_factory.mktemp("rn50")
    torch.manual_seed(0)
    model = open_clip.create_model("RN50", pretrained=None)
    described = {"model_cfg": open_clip.get_model_config("RN50"), "preprocess_cfg": {}}
    (directory / "open_clip_config.json").write_text(json.dumps(described))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, directory / "open_clip_model.safetensors")
    return directory


def _overlay(vocdevkit: Path, rn50: Path, **benchmark: object) -> dict:
    return {
        "seeds": [0],
        "methods": list(METHODS),
        "benchmark": {"name": "voc2007", "path": str(vocdevkit), "test_images": IMAGES, **benchmark},
        "captions": {"tokenizer": "RN50", "total": 20},
        "features": {"backbone": f"local-dir:{rn50}", "input_size": 224, "resize": "crop", "part_size": 80},
    }


@pytest.fixture(scope="module")
def evaluated(vocdevkit: Path, rn50: Path, new_project: Callable[[str], Project]) -> Project:
    project = new_project("voc2007")
    done = project.run("eval_all", overlay=_overlay(vocdevkit, rn50))
    (project.root / "terminal.txt").write_text(done.stdout)
    return project


def _metrics(project: Project) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(project.results.glob("evaluation/*/metrics.json"))]


def _counted(vocdevkit: Path, *, with_difficult: bool) -> Counter[str]:
    """Images of each class, by a reading of the XML that knows nothing of ours."""
    listed = (vocdevkit / "VOC2007/ImageSets/Main/test.txt").read_text().split()
    found: Counter[str] = Counter()
    for key in listed:
        tree = ElementTree.parse(vocdevkit / f"VOC2007/Annotations/{key}.xml")
        objects = tree.findall("object")
        found.update({o.findtext("name") for o in objects if with_difficult or o.findtext("difficult") == "0"})
    return found


def test_positives_are_those_of_the_annotations(evaluated, vocdevkit):
    expected = _counted(vocdevkit, with_difficult=False)
    # Words of the label set differ from the names of VOC by their spaces.
    for record in _metrics(evaluated):
        found = {name.replace(" ", ""): of["positives"] for name, of in record["per_class"].items()}
        assert found == {name: expected[name] for name in found} and len(found) == 20
        assert record["images"] == IMAGES and record["missing"] == []
        assert record["protocol"] == f"voc2007/test-{IMAGES}/difficult-negative/crop224"


def test_weights_that_know_nothing_are_at_chance_and_the_table_says_so(evaluated):
    for record in _metrics(evaluated):
        figures = record["metrics"]
        shares = [of["positives"] / IMAGES for of in record["per_class"].values() if of["positives"]]
        mean = sum(shares) / len(shares)
        assert mean < figures["mAP_chance"] < mean + 0.04
        assert abs(figures["mAP"] - figures["mAP_chance"]) < 0.04
    said = f"a random order of the images is expected to have mAP {100 * figures['mAP_chance']:.2f}"
    assert said in (evaluated.root / "terminal.txt").read_text()


def test_the_index_lists_the_official_images_in_order(evaluated, vocdevkit):
    (path,) = evaluated.results.glob("index/*/index.parquet")
    listed = (vocdevkit / "VOC2007/ImageSets/Main/test.txt").read_text().split()
    assert pq.read_table(path)["key"].to_pylist() == listed


def test_the_report_names_the_makers_of_the_photographs_and_of_what_the_generator_learned_from(evaluated):
    page = (evaluated.results / "report.html").read_text()
    footer = page.rpartition("<footer")[2]
    assert "PASCAL VOC 2007" in footer and "OpenMoji" in footer
    synthetic = page[page.index('<section id="synthetic"') : page.index('<section id="verification"')]
    assert "OpenMoji" in synthetic and "PASCAL" not in synthetic


def test_another_rule_for_difficult_objects_extracts_and_evaluates_only(evaluated, vocdevkit, rn50):
    planned = evaluated.planned("eval_all", overlay=_overlay(vocdevkit, rn50, difficult="ignored"))
    assert set(planned) == {"index", "features_images", "gap", "evaluation", "summary", "report"}


def test_what_is_missing_is_refused_until_it_is_tolerated(vocdevkit, rn50, fresh, tmp_path):
    copy = tmp_path / "VOC2007"
    for name in ("Annotations", "ImageSets", "JPEGImages"):
        (copy / name).mkdir(parents=True)
        for path in (vocdevkit / "VOC2007" / name).iterdir():
            (copy / name / path.name).symlink_to(path)
    gone = sorted((copy / "JPEGImages").iterdir())[3]
    gone.unlink()
    (target,) = _index_of(fresh, _overlay(copy, rn50))
    refused = fresh.snakemake(target, overlay=_overlay(copy, rn50))
    assert refused.returncode != 0
    (log,) = (fresh.results / "logs" / "index").glob("*.log")
    assert f"1 of {IMAGES} images" in log.read_text() and gone.name in log.read_text()
    assert not (fresh.root / target).exists()
    fresh.run(target, overlay=_overlay(copy, rn50, missing=0.01))
    assert gone.name in (fresh.root / target).with_name("missing.txt").read_text()


def _index_of(project: Project, overlay: dict) -> list[str]:
    shown = project.run("--dry-run", "--summary", "eval_all", overlay=overlay).stdout
    return [line.split("\t")[0] for line in shown.splitlines() if "/index/" in line.split("\t")[0]]
