"""What a user can get wrong ends in one clear sentence before the first job."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "src/t2ipal/pack/models"

pytestmark = pytest.mark.slow


def _sentence(refused) -> str:
    """The one sentence of a refused run."""
    shown = refused.stdout + refused.stderr
    assert refused.returncode != 0, shown
    assert "Traceback" not in shown
    sentences = [line for line in shown.splitlines() if line.startswith("t2ipal: error: ")]
    assert len(sentences) == 1, shown
    return sentences[0]


def _one_photograph(folder: Path) -> None:
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "1.png")


@pytest.mark.parametrize(
    ("overlay", "named"),
    [
        ({"synthesis": {"step": 4}}, "'synthesis.step' is unknown; did you mean 'synthesis.steps'?"),
        ({"sedes": [0]}, "did you mean 'seeds'?"),
        ({"training": {"held_out": 2}}, "training.held_out"),
        ({"synthesis": {"guidance": "strong"}}, "synthesis.guidance"),
        ({"results": "config.yaml/results"}, "config key 'results'"),
        ({"benchmark": {"labels": "no-such-set"}}, "no-such-set"),
        ({"features": {"backbone": "local-dir:nowhere"}}, "nowhere"),
        ({"synthesis": {"model": "local-dir:nowhere"}}, "nowhere"),
    ],
)
def test_a_bad_configuration_is_refused(fresh, overlay, named):
    assert named in _sentence(fresh.snakemake(overlay=overlay))


@pytest.mark.parametrize("cores", ["0", "-1"])
def test_no_cores_are_refused(fresh, cores):
    assert "--cores must be at least 1" in _sentence(fresh.snakemake("--cores", cores))


def test_a_class_without_a_drawing_is_named(fresh):
    (fresh.root / "mine.yaml").write_text("classes: {cat: {}, unicycle: {}}\n")
    assert "unicycle" in _sentence(fresh.snakemake(overlay={"benchmark": {"labels": "mine.yaml"}}))


@pytest.mark.parametrize(
    ("section", "key", "name"), [("features", "backbone", "clip"), ("synthesis", "model", "text-to-image")]
)
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_missing_or_damaged_pack_file_is_named(fresh, section, key, name, damage):
    shutil.copytree(MODELS / name, fresh.root / "model")
    weights = sorted((fresh.root / "model").rglob("*.safetensors"))
    if damage == "missing":
        for path in weights:
            path.unlink()
    else:
        weights[0].write_bytes(weights[0].read_bytes()[:-100])
    sentence = _sentence(fresh.snakemake(overlay={section: {key: "local-dir:model"}}))
    assert f"{section}.{key}" in sentence
    assert ".safetensors" in sentence


def test_a_study_of_real_images_is_refused_where_the_benchmark_has_none(fresh):
    _one_photograph(fresh.root / "photos")
    overlay = {"benchmark": {"name": "own", "path": "photos"}, "methods": ["zero-shot"]}
    refused = fresh.snakemake("few_shot", overlay=overlay)
    assert "'few_shot' learns from real images, and benchmark 'own' has no train images" in _sentence(refused)


@pytest.mark.parametrize("target", ["study_loss", "studies"])
def test_studies_of_several_benchmarks_are_refused_with_the_key(fresh, target):
    _one_photograph(fresh.root / "photos")
    (fresh.root / "a.yaml").write_text("benchmark: {test_images: 100}\n")
    (fresh.root / "b.yaml").write_text("benchmark: {name: own, path: photos}\n")
    refused = fresh.snakemake(target, overlay={"together": ["a.yaml", "b.yaml"], "methods": ["zero-shot"]})
    assert "config key 'together' names several" in _sentence(refused)


def test_a_path_of_no_unit_is_refused(fresh):
    assert "belongs to no unit" in _sentence(
        fresh.snakemake("results/captions/openmoji-s9-0123456789ab/captions.parquet")
    )
