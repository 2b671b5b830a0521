"""The stage on real feature files and a real label set; only the loading of the backbone is stood in for."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

from t2ipal.errors import UserError
from t2ipal.features import backbone as backbones
from t2ipal.features import store
from t2ipal.learning.heads import Head
from t2ipal.learning.stage import train

NAMES = ["dog", "cat", "dining_table", "bus"]
IDENTITY = "sha256:tiny"


@pytest.fixture(autouse=True)
def _tiny_backbone(monkeypatch: pytest.MonkeyPatch, tiny: SimpleNamespace, clip: Any) -> None:
    def encode_text(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        with torch.inference_mode():
            global_ = normalize(clip.encode_text(tiny.tokenize(texts)), dim=-1)
        return global_, global_[:, None], torch.ones(len(texts))

    def load(settings: dict[str, Any], device: str) -> SimpleNamespace:
        return SimpleNamespace(
            model=clip,
            tokenizer=tiny.tokenize,
            encode_text=encode_text,
            identity=IDENTITY,
            device=torch.device(device),
        )

    monkeypatch.setattr(backbones, "load", load)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.yaml"
    path.write_text("classes: [" + ", ".join(NAMES) + "]\n")
    return path


@pytest.fixture
def settings(labels: Path) -> dict[str, Any]:
    return {
        "method": "t2i-pal",
        "labels": str(labels),
        "features": {"backbone": "tiny"},
        "prompts": {"length": 4, "init_std": 0.02, "class_specific": False, "template": "a photo of a {}"},
        "scores": {"tau": 4.0, "tau_s_train": 50.0, "tau_s_test": 40.0},
        "seed": 3,
        "training": {"epochs": 2, "batch_size": 32, "learning_rate": 0.05, "held_out": 0.25},
        "adapter": {
            "prototypes": 2,
            "keys_per_class": 6,
            "epochs": 2,
            "betas": [1.0, 5.5],
            "alphas": [0.0, 1.0],
            "local_weights": [1.0, 2.0],
        },
    }


def parts(tiny: SimpleNamespace, directory: Path, identity: str = IDENTITY, seed: int = 0) -> list[Path]:
    features = tiny.separable(80, len(NAMES), seed)
    rows = store.Rows(
        keys=[f"k{row}" for row in range(80)],
        labels=[[NAMES[c] for c in np.flatnonzero(values == 1)] for values in features.values],
        unknown=[[] for _ in range(80)],
        global_=features.global_,
        local=features.local,
        length=features.length,
    )
    path = directory / f"part-{seed:05}.parquet"
    store.write(path, [rows], {"identity": identity})
    return [path]


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_joint_model_holds_all_that_predicts_and_what_was_searched(
    tiny: SimpleNamespace, settings: dict[str, Any], tmp_path: Path
) -> None:
    train(settings, parts(tiny, tmp_path), tmp_path / "model" / "model.json", "cpu")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    description = json.loads((tmp_path / "model" / "model.json").read_text())
    assert description["scores"]["beta"] in (1.0, 5.5)
    assert description["scores"]["pooling"] == "max"
    keys = shapes.pop("keys")[0]
    assert shapes.pop("values") == (keys, 4)
    assert shapes.pop("prototypes") == (4, 2, 16)
    assert shapes == {
        "global_embeddings": (4, 16),
        "local_embeddings": (4, 16),
        "context_global": (4, 32),
        "context_local": (4, 32),
    }
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())
    assert description["labels"] == NAMES
    assert description["prompt_names"] == ["dog", "cat", "dining table", "bus"]
    assert description["settings"] == settings
    assert len(description["selection"]["table"]) == 2 * 2 * 2
    best = max(row["mAP"] for row in description["selection"]["table"])
    chosen = {"w_l": description["scores"]["w_l"], "alpha": description["scores"]["alpha"]}
    assert description["selection"]["held_out_mAP"] == best
    assert any(row["mAP"] == best and chosen.items() <= row.items() for row in description["selection"]["table"])
    assert [(record["part"], record["epoch"]) for record in description["history"]] == [
        ("prompts", 1), ("prompts", 2), ("adapter", 1), ("adapter", 2),
    ]  # fmt: skip


def test_prompts_alone_sum_both_branches_and_have_no_adapter(
    tiny: SimpleNamespace, settings: dict[str, Any], tmp_path: Path
) -> None:
    del settings["adapter"]
    train({**settings, "method": "tai-dpt"}, parts(tiny, tmp_path), tmp_path / "m" / "model.json", "cpu")
    head = Head.load(tmp_path / "m")
    assert (head.w_g, head.w_l, head.alpha, head.adapter) == (1.0, 1.0, 0.0, None)
    assert "prototypes" not in load_file(tmp_path / "m" / "model.safetensors")


def test_equal_settings_and_features_give_equal_bytes(
    tiny: SimpleNamespace, settings: dict[str, Any], tmp_path: Path
) -> None:
    features = parts(tiny, tmp_path)
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        train({**settings, "seed": seed}, features, tmp_path / name / "model.json", "cpu")
    first, again, other = (bytes_of(tmp_path / name) for name in ("first", "again", "other"))
    assert set(first) == {"model.json", "model.safetensors"}
    assert first == again
    assert first["model.safetensors"] != other["model.safetensors"]


def test_nothing_but_the_given_features_is_read(
    tiny: SimpleNamespace, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = parts(tiny, tmp_path)
    train(settings, given, tmp_path / "before" / "model.json", "cpu")
    parts(tiny, tmp_path, seed=1)
    read, opened = store.read, []
    monkeypatch.setattr(store, "read", lambda paths: opened.extend(paths) or read(paths))
    train(settings, given, tmp_path / "after" / "model.json", "cpu")
    assert opened == given
    assert bytes_of(tmp_path / "before") == bytes_of(tmp_path / "after")


@pytest.mark.parametrize(("method", "local_weight"), [("zero-shot", 0.0), ("zero-shot-local", 1.0)])
def test_zero_shot_models_hold_the_templates_embeddings(
    tiny: SimpleNamespace, clip: Any, settings: dict[str, Any], tmp_path: Path, method: str, local_weight: float
) -> None:
    chosen = {key: settings[key] for key in ("labels", "features", "prompts", "scores")}
    train({**chosen, "method": method}, [], tmp_path / "m" / "model.json", "cpu")
    head = Head.load(tmp_path / "m")
    sentences = [f"a photo of a {name}" for name in ("dog", "cat", "dining table", "bus")]
    expected = normalize(clip.encode_text(tiny.tokenize(sentences)), dim=-1)
    assert torch.allclose(head.global_embeddings, expected, atol=1e-6)
    assert torch.equal(head.global_embeddings, head.local_embeddings)
    assert (head.w_g, head.w_l, head.alpha) == (1.0, local_weight, 0.0)
    description = json.loads((tmp_path / "m" / "model.json").read_text())
    assert (description["selection"], description["history"]) == (None, [])


def test_features_of_another_backbone_are_refused_and_nothing_is_written(
    tiny: SimpleNamespace, settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="another backbone"):
        train(settings, parts(tiny, tmp_path, identity="sha256:big"), tmp_path / "m" / "model.json", "cpu")
    assert not (tmp_path / "m").exists()


def test_learning_without_features_is_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'t2i-pal' learns from features"):
        train(settings, [], tmp_path / "model.json", "cpu")
