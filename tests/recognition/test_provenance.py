"""What the card of a model says of its run, which lies as ``t2ipal.layout`` lays it out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.recognition.conftest import PACK, SIZE, head_of

from t2ipal.config import parse
from t2ipal.evaluation.calibration import Calibration, fit
from t2ipal.evaluation.metrics import expected_calibration_error
from t2ipal.evaluation.scores import write as write_scores
from t2ipal.evaluation.stage import compute
from t2ipal.io import write_json
from t2ipal.layout import Layout
from t2ipal.learning import models
from t2ipal.recognition import licences
from t2ipal.recognition.export import export
from t2ipal.recognition.figures import tables
from t2ipal.recognition.provenance import Provenance

SEEDS = (3, 5)
CLASSES = ("fox", "badger", "red panda")
PROTOCOL = "own/test-50/crop96"
GENERATOR = "stabilityai/sd-turbo"
Written = Callable[..., Layout]


def _measured(seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], Calibration]:
    rng = np.random.default_rng(seed)
    targets = (rng.random((50, 3)) < 0.3).astype(np.int8)
    scores = (targets + rng.normal(size=(50, 3))).astype(np.float32)
    return scores, targets, fit(scores, targets)


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Writes what the stages of a run leave of a method, as far as a card reads it."""
    (tmp_path / "labels.yaml").write_text(json.dumps({"classes": list(CLASSES)}))
    (tmp_path / "photos").mkdir()

    def write(method: str, **changes: Any) -> Layout:
        values = {
            "results": str(tmp_path / "results"),
            "seeds": list(SEEDS),
            "benchmark": {"name": "own", "path": str(tmp_path / "photos"), "labels": str(tmp_path / "labels.yaml")},
            "captions": {"total": 12, "tokenizer": f"local-dir:{PACK}"},
            "synthesis": {"model": GENERATOR, "shard_size": 10, "batch_size": 5, "steps": 1},
            "features": {"backbone": f"local-dir:{PACK}"},
            "methods": [method],
        }
        layout = Layout(parse({**values, **changes}))
        for seed in SEEDS:
            _write_data(layout, seed)
            _write_model(layout, method, seed)
        return layout

    return write


def _write_data(layout: Layout, seed: int) -> None:
    captions, synthesis = layout.captions(seed), layout.synthesis(seed)
    write_json(layout.directory(captions) / "captions.json", {"count": 12, "settings": captions.settings})
    for piece in synthesis.pieces:
        write_json(layout.shard(synthesis, piece)[1], {"count": 6, "settings": synthesis.settings})
    for source in ("captions", "synthetic"):
        layout.directory(layout.features(source, seed)).mkdir(parents=True, exist_ok=True)


def _write_model(layout: Layout, method: str, seed: int) -> None:
    unit = layout.training(method, seed)
    scores, targets, calibration = _measured(seed)
    about = {
        "method": method,
        "features": unit.settings["features"],
        "settings": unit.settings,
        "calibration": calibration.to_dict(),
        "history": [],
    }
    models.write(head_of("prompts", CLASSES, SIZE), {}, about, layout.directory(unit) / "model.json")
    folder = layout.root / "evaluation" / f"{unit.name}-{unit.fingerprint[::-1]}"
    folder.mkdir(parents=True, exist_ok=True)
    keys, labels = [str(row) for row in range(len(scores))], list(CLASSES)
    write_scores(folder / "scores.parquet", keys, targets, scores, {"labels": labels, "protocol": PROTOCOL})
    metrics = {"benchmark": "own", "seed": seed, "protocol": PROTOCOL, "model": unit.run}
    write_json(folder / "metrics.json", {**metrics, "metrics": compute(scores, targets, calibration)})


def _provenance(layout: Layout, method: str, seed: int) -> Provenance:
    model = layout.directory(layout.training(method, seed))
    return Provenance.of(model, json.loads((model / "model.json").read_text()))


def test_captions_images_and_all_seeds_are_found_by_fingerprints(written: Written) -> None:
    found = _provenance(written("t2i-pal"), "t2i-pal", 5)
    assert (found.benchmark, found.method, found.seed, found.images) == ("own", "t2i-pal", 5, 12)
    assert found.captions is not None and found.captions["settings"]["seed"] == 5
    assert found.synthesis is not None and found.synthesis["model"] == GENERATOR
    assert [one.seed for one in found.evaluations] == [3, 5]


def test_a_model_of_captions_has_no_images(written: Written) -> None:
    found = _provenance(written("tai-dpt"), "tai-dpt", 3)
    assert found.synthesis is None and found.captions is not None and found.captions["settings"]["seed"] == 3


def test_data_that_all_seeds_share_are_found(written: Written) -> None:
    found = _provenance(written("t2i-pal", redraw_per_seed=False), "t2i-pal", 5)
    assert found.captions is not None and found.captions["settings"]["seed"] == 3 and found.images == 12


def test_among_several_runs_in_one_place_it_is_the_models_own(written: Written) -> None:
    written("tai-dpt")
    layout = written("t2i-pal", synthesis={"model": "hub/other", "shard_size": 10, "batch_size": 5})
    other = written("t2i-pal", captions={"total": 9, "max_classes": 1, "tokenizer": f"local-dir:{PACK}"})
    assert [one.seed for one in _provenance(layout, "t2i-pal", 3).evaluations] == [3, 5]
    models_of = {_provenance(each, "t2i-pal", 3).synthesis["model"] for each in (layout, other)}  # type: ignore[index]
    assert models_of == {"hub/other", GENERATOR}


def test_numbers_are_those_of_the_seeds_with_and_without_calibration(written: Written) -> None:
    (table,) = tables(_provenance(written("t2i-pal"), "t2i-pal", 3).evaluations)
    assert (table.benchmark, table.protocol, table.seeds) == ("own", PROTOCOL, SEEDS)
    values = {figure.name: figure.values for figure in table.figures}
    for column, seed in enumerate(SEEDS):
        scores, targets, calibration = _measured(seed)
        expected = compute(scores, targets, calibration)
        assert values["mAP"][column] == pytest.approx(expected["mAP"])
        assert values["ECE of the calibrated probability"][column] == pytest.approx(expected["ECE"])
        plain = expected_calibration_error(1 / (1 + np.exp(-scores)), targets)
        assert values["ECE of the sigmoid of the score"][column] == pytest.approx(plain, abs=1e-6)
        for name in ("CF1", "OF1"):
            assert values[f"{name} by calibrated, threshold of each class"][column] == pytest.approx(expected[name])
            assert values[f"{name} by the 3 highest scores of each image"][column] == pytest.approx(
                expected[f"{name}_top3"]
            )
    average = next(figure for figure in table.figures if figure.name == "mAP")
    assert average.mean == pytest.approx(np.mean(average.values)) and average.sd == pytest.approx(
        np.std(average.values, ddof=1)
    )


def test_the_card_tells_it_all(written: Written, tmp_path: Path) -> None:
    layout = written("t2i-pal")
    export(layout.directory(layout.training("t2i-pal", 5)), tmp_path / "exported")
    text = (tmp_path / "exported" / "README.md").read_text(encoding="utf-8")
    for said in (
        "It learned from synthetic images; it has seen no real image with a label.",
        "Its training images are synthetic",
        f"`{GENERATOR}`. Licence: Stability AI's own; it restricts commercial use",
        "12; sources and their weights: template (1)",
        "12 of 64 × 64 pixels in 1 steps",
        f"Protocol `{PROTOCOL}`, seeds 3, 5",
        "This directory holds the model of seed 5.",
        "learned from held-out synthetic images",
        "Platt",
        "threshold of highest F1",
        "Images of the user's own",
        "Intended use and limits",
        "Apache-2.0; trained on drawings of OpenMoji",
    ):
        assert said in text, said
    header = yaml.safe_load(text.split("---\n")[1])
    result = header["model-index"][0]["results"][0]
    assert result["dataset"] == {"name": PROTOCOL, "type": "own"}
    (table,) = tables(_provenance(layout, "t2i-pal", 5).evaluations)
    assert result["metrics"][0]["value"] == pytest.approx(100 * table.figures[0].mean, abs=0.01)
    assert "synthetic-data" in header["tags"]


def test_the_terms_of_a_model_are_known_stated_or_open(tmp_path: Path) -> None:
    def of(model: str) -> str:
        return licences.of_generator({"model": model, "model_identity": "x"})

    assert of("stable-diffusion-v1-5/stable-diffusion-v1-5") == "CreativeML OpenRAIL-M"
    assert of("somebody/model") == licences.UNKNOWN
    (tmp_path / "README.md").write_text("---\nlicense: openrail++ # yes\ntags: [a]\n---\nlicense: no\n")
    assert of(f"local-dir:{tmp_path}") == "openrail++"
    (tmp_path / "README.md").write_text("license: no header\n")
    assert of(f"local-dir:{tmp_path}") == licences.UNKNOWN
    assert licences.of_clip({"backbone": "RN50-quickgelu", "pretrained": "openai"}) == "MIT (OpenAI)"


def test_the_terms_of_a_corpus_that_was_downloaded_are_those_of_the_catalogue() -> None:
    from t2ipal.acquisition.catalogue import item

    found = item("coco2014-annotations")
    assert licences.of_texts({"identities": {"a/*.json": found.identity, "b.txt": "sha256:0"}}) == [
        f"coco2014-annotations: {found.terms} ({found.home})"
    ]
