"""Every shipped configuration: what it sets, and that its whole DAG can be planned from nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from PIL import Image
from pydantic import BaseModel

from t2ipal.config import Config, members, parse
from t2ipal.labels import LabelSet

if TYPE_CHECKING:
    from conftest import Project

CONFIGS = Path(__file__).resolve().parents[2] / "config"
SHIPPED = sorted(CONFIGS.glob("*.yaml"))
BENCHMARKS = ("voc2007", "coco2014", "nuswide")
# Sections that only speak of baselines outside a preset's table, of studies, or of the embedded models.
APART = {"linear", "dual", "clip_adapter", "real", "studies", "pack"}
# Keys of a source that is not in use.
UNUSED = {"captions.llm"}


def _unset(model: type[BaseModel], values: dict[str, Any], at: str = "") -> Iterator[str]:
    """Dotted names of the keys of a model that ``values`` does not set."""
    for name, field in model.model_fields.items():
        key, inner = f"{at}{name}", field.annotation
        if name not in values:
            yield key
        elif isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _unset(inner, values[name], f"{key}.")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_preset_of_the_paper_sets_every_value(name):
    values = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    sections = {field for field, info in Config.model_fields.items() if isinstance(info.default, BaseModel)}
    assert sections - APART <= set(values)
    unset = [key for key in _unset(Config, values) if key.split(".")[0] in sections - APART and key not in UNUSED]
    assert not unset


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_value_of_a_preset_says_where_it_is_from_or_is_a_matter_of_the_machine(name):
    text = (CONFIGS / f"{name}.yaml").read_text()
    assert text.count("TaI-DPT") > 15 and text.count("Ours") > 5


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_configuration_resolves(path):
    config = parse(yaml.safe_load(path.read_text()) | ({} if path.stem != "paper" else {"together": []}))
    assert members(config) == [config]


def _fixture(root: Path) -> None:
    """What a user puts in place by hand: the lists and labels of NUS-WIDE, photographs and labels of one's own."""
    nus = root / "data" / "nuswide"
    (nus / "ImageList").mkdir(parents=True)
    (nus / "TrainTestLabels").mkdir()
    for split in ("Train", "Test"):
        (nus / "ImageList" / f"{split}Imagelist.txt").write_text("actor\\0001_2124494179.jpg\n")
        for name in LabelSet.load("nuswide").names:
            (nus / "TrainTestLabels" / f"Labels_{name}_{split}.txt").write_text("0\n")
    (root / "labels.yaml").write_text("classes: [fox, badger, hedgehog]\n")
    (root / "photos").mkdir()
    Image.new("RGB", (32, 32)).save(root / "photos" / "a.jpg")


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_whole_dag_of_a_shipped_configuration_can_be_planned(path, fresh: Project):
    _fixture(fresh.root)
    planned = fresh.with_files(f"config/{path.name}").planned("eval_all")
    assert planned["summary"] == planned["report"] == 1
    assert {"captions", "features_captions", "features_images", "training", "evaluation"} <= set(planned)
    acquired = {rule.removeprefix("acquire_") for rule in planned if rule.startswith("acquire_")}
    assert acquired == {
        "voc2007": {"voc2007_trainval", "voc2007_test", "coco2014_annotations"},
        "coco2014": {"coco2014_val", "coco2014_annotations"},
        "nuswide": {"openimages_captions"},
        "paper": {
            "voc2007_trainval",
            "voc2007_test",
            "coco2014_val",
            "coco2014_annotations",
            "openimages_captions",
        },
    }.get(path.stem, set())
