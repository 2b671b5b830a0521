"""Jobs, their samples by role, their classes, and what the models of one job share."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from t2ipal import units
from t2ipal.errors import UserError
from t2ipal.features import backbone as backbones
from t2ipal.features import store
from t2ipal.learning.data import Samples, balanced, few, generator, split
from t2ipal.learning.training import Divided
from t2ipal.learning.workroom import Classes, FeatureSet, Job, Workroom
from t2ipal.settings import PromptSettings

NAMES = ("dog", "cat", "dining_table", "bus")


def rows_of(samples: Samples) -> list[tuple[float, ...]]:
    """A name for every sample: its global features with its targets."""
    return [
        (*features, *targets)
        for features, targets in zip(samples.global_[samples.rows].tolist(), samples.targets.tolist(), strict=True)
    ]


def test_job_is_made_of_its_description(tmp_path: Path) -> None:
    job = Job.of(
        {
            "settings": {"method": "x"},
            "output": str(tmp_path / "model.json"),
            "features": {"captions": ["c", ["00000", "00001"]], "train": ["t", ["00000"]]},
            "members": ["a", "b"],
        }
    )
    assert job.output == tmp_path / "model.json" and job.settings == {"method": "x"}
    assert job.features == {
        "captions": FeatureSet(Path("c"), ("00000", "00001")),
        "train": FeatureSet(Path("t"), ("00000",)),
    }
    assert [str(path) for path in job.inputs] == [
        *("c/part-00000.parquet", "c/part-00001.parquet", "t/part-00000.parquet"),
        *("a/model.json", "a/model.safetensors", "b/model.json", "b/model.safetensors"),
    ]


SAME_PROMPTS = {
    "another method": ("t2i-pal-prompts", {}),
    "another adapter": ("t2i-pal", {"adapter.prototypes": 1}),
    "no cache": ("t2i-pal-prototypes", {}),
}
SAME_ADAPTERS: dict[str, Any] = {
    "other alphas": ("t2i-pal", {"adapter.alphas": [0.125]}),
    "other local weights": ("t2i-pal", {"adapter.local_weights": [3.0]}),
}
OTHER_PROMPTS = {
    "other length": ("t2i-pal", {"prompts.length": 3}),
    "other words": ("t2i-pal", {"prompts.initial_words": "a photo"}),
    "other loss": ("t2i-pal", {"loss.margin": 0.5}),
    "other schedule": ("t2i-pal", {"training.epochs": 4}),
    "other temperature": ("t2i-pal", {"scores.tau": 5.0}),
    "no heatmap": ("t2i-pal-no-heatmap", {}),
    "other data": ("t2i-pal-mixed", {}),
    "other learner": ("dualcoop", {"loss.name": "ranking"}),
    "other backbone": ("t2i-pal", {"features.precision": "float16"}),
    "other share held out": ("t2i-pal", {"training.held_out": 0.5}),
}


@pytest.mark.parametrize("change", [*SAME_PROMPTS, *SAME_ADAPTERS])
def test_what_comes_after_a_part_does_not_change_its_key(run: Any, change: str) -> None:
    job, other = run.job("t2i-pal"), run.job(*{**SAME_PROMPTS, **SAME_ADAPTERS}[change])
    assert other.key("prompts") == job.key("prompts")
    if "adapter" in other.settings:
        assert (other.key("adapter") == job.key("adapter")) == (change in SAME_ADAPTERS)


@pytest.mark.parametrize("change", OTHER_PROMPTS)
def test_what_a_part_depends_on_changes_its_key(run: Any, change: str) -> None:
    job, other = run.job("t2i-pal"), run.job(*OTHER_PROMPTS[change])
    for part in ("prompts", "adapter") if "adapter" in other.settings else ("prompts",):
        assert other.key(part) != job.key(part)


def test_key_changes_with_seed_shots_labels_inputs_and_the_stages_version(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = run.job("few-shot-t2i-pal")
    keys = [
        job.key("prompts"),
        run.job("few-shot-t2i-pal", seed=1).key("prompts"),
        run.job("few-shot-t2i-pal", {"real.shots": 5}).key("prompts"),
    ]
    (run.root / "others.yaml").write_text("classes: [dog, cat, bus, sofa]\n")
    keys.append(run.job("few-shot-t2i-pal", {"benchmark.labels": str(run.root / "others.yaml")}).key("prompts"))
    assert job.key("prompts") == keys[0]
    os.utime(job.inputs[-1], ns=(0, 1))
    keys.append(job.key("prompts"))
    monkeypatch.setitem(units.VERSIONS, "training", units.VERSIONS["training"] + 1)
    keys.append(job.key("prompts"))
    assert len(set(keys)) == 6


def test_samples_are_all_rows_of_all_parts(run: Any) -> None:
    job = run.job("tai-dpt")
    (found,) = job.features.values()
    assert found.pieces == ("00000", "00001")
    samples = Workroom("cpu").samples(job, "captions")
    expected = store.read(found.files)
    assert samples.rows.tolist() == list(range(64)) and len(expected.keys) == 64
    assert np.array_equal(samples.global_, expected.global_) and np.array_equal(samples.local, expected.local)
    assert np.array_equal(samples.targets, expected.targets(NAMES))


def test_samples_of_another_backbone_or_none_are_told(run: Any) -> None:
    job = run.job("tai-dpt")
    stranger = Job({**job.settings, "features": {"backbone": "b", "model_identity": "?"}}, job.output, job.features)
    with pytest.raises(UserError, match="another backbone than 'b'"):
        Workroom("cpu").samples(stranger, "captions")
    job.inputs[1].unlink()
    with pytest.raises(UserError, match=r"part-00001\.parquet"):
        Workroom("cpu").samples(job, "captions")


def test_features_and_backbone_are_loaded_once_for_all_models(
    run: Any, monkeypatch: pytest.MonkeyPatch, tiny: SimpleNamespace, clip: torch.nn.Module
) -> None:
    read, opened, loaded = store.read, [], []
    monkeypatch.setattr(store, "read", lambda paths: opened.extend(paths) or read(paths))
    monkeypatch.setattr(
        backbones, "load", lambda settings, device: loaded.append(settings) or tiny.backbone(clip, device)
    )
    room = Workroom("cpu")
    for method in ("tai-dpt", "mixed-prompts", "t2i-pal"):
        for seed in (0, 1):
            # Seeds share captions and images here, as `redraw_per_seed: false` has it.
            job = run.job(method, {"redraw_per_seed": False}, seed)
            room.classes(job.settings)
            room.divided(job)
    assert len(opened) == len(set(opened)) == 2 + 2
    assert len(loaded) == 1


def divided(run: Any, method: str, changes: dict[str, Any] | None = None) -> tuple[Divided, dict[str, Samples]]:
    """A method's samples by role, and all samples of its sources."""
    job, room = run.job(method, changes), Workroom("cpu")
    return room.divided(job), {source: room.samples(job, source) for source in job.features}


@pytest.mark.parametrize("method", ["tai-dpt", "t2i-pal", "oracle"])
def test_single_source_is_split_into_learning_and_choosing(run: Any, method: str) -> None:
    found, sources = divided(run, method)
    (source,) = sources.values()
    training, held = split(source, 0.25, seed=0)
    assert rows_of(found.learn) == rows_of(training)
    assert found.choose is not None and rows_of(found.choose) == rows_of(held)


def test_two_sources_are_split_each_and_joined_in_order(run: Any) -> None:
    found, sources = divided(run, "t2i-pal-mixed")
    parts = [split(sources[name], 0.25, seed=0) for name in ("captions", "synthetic")]
    assert found.choose is not None
    for samples, number in ((found.learn, 0), (found.choose, 1)):
        assert rows_of(samples) == [row for part in parts for row in rows_of(part[number])]
    assert found.learn.local.shape[1] == 7


def test_few_real_images_are_all_learned_from_and_none_is_chosen_on(run: Any) -> None:
    changes = {"real.shots": 3, "real.known": 1.0}
    found, sources = divided(run, "few-shot-prompts", changes)
    chosen = balanced(sources["train"].targets, 3, generator(0, "shots"))
    assert found.choose is None
    assert rows_of(found.learn) == rows_of(sources["train"].select(chosen))

    found, sources = divided(run, "few-shot-tip-adapter-f", changes)
    assert rows_of(found.learn) == rows_of(sources["train"].select(chosen))
    assert found.choose is not None and rows_of(found.choose) == rows_of(split(sources["synthetic"], 0.25, seed=0)[1])

    found, sources = divided(run, "few-shot-t2i-pal", changes)
    training, held = split(sources["synthetic"], 0.25, seed=0)
    assert rows_of(found.learn) == rows_of(training) + rows_of(sources["train"].select(chosen))
    assert found.choose is not None and rows_of(found.choose) == rows_of(held)


def test_share_of_labels_is_hidden_from_real_images_alone(run: Any) -> None:
    found, sources = divided(run, "few-shot-t2i-pal", {"real.shots": None, "real.known": 0.4})
    training, _ = split(sources["synthetic"], 0.25, seed=0)
    hidden = few(sources["train"], None, 0.4, seed=0)
    assert rows_of(found.learn) == rows_of(training) + rows_of(hidden)
    unknown = (found.learn.targets == -1).mean(axis=1)
    assert not unknown[: len(training)].any() and unknown[len(training) :].mean() == pytest.approx(0.6, abs=0.1)


def test_oracle_sees_all_real_images_whatever_the_share_of_the_others(run: Any) -> None:
    found, sources = divided(run, "oracle", {"real.shots": 1, "real.known": 0.1})
    assert found.choose is not None
    assert len(found.learn) + len(found.choose) == len(sources["train"]) and (found.learn.targets != -1).all()


def classes(tiny: SimpleNamespace, clip: torch.nn.Module, **prompts: Any) -> Classes:
    labels: Any = SimpleNamespace(names=NAMES, prompt_name=lambda name: name.replace("_", " "))
    settings = PromptSettings.model_validate({"template": "the big {}", **prompts})
    return Classes(labels, tiny.backbone(clip), settings)


def test_default_embeddings_are_those_of_the_template(tiny: SimpleNamespace, clip: Any) -> None:
    found = classes(tiny, clip)
    assert found.labels == NAMES
    assert found.prompt_names == ("dog", "cat", "dining table", "bus")
    sentences = tiny.tokenize([f"the big {name}" for name in found.prompt_names])
    assert torch.allclose(found.default_embeddings(), normalize(clip.encode_text(sentences), dim=-1), atol=1e-6)


def test_ensemble_embeddings_are_the_mean_of_the_eighty_imagenet_templates(tiny: SimpleNamespace, clip: Any) -> None:
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    found = classes(tiny, clip, ensemble=True)
    assert len(OPENAI_IMAGENET_TEMPLATES) == 80
    embeddings = found.default_embeddings()
    for name, embedding in zip(found.prompt_names, embeddings, strict=True):
        total = torch.zeros(16)
        for template in OPENAI_IMAGENET_TEMPLATES:
            total += normalize(clip.encode_text(tiny.tokenize([template(name)]))[0], dim=-1)
        assert torch.allclose(embedding, total / total.norm(), atol=1e-5)
    assert not torch.allclose(embeddings, classes(tiny, clip).default_embeddings(), atol=1e-2)


@pytest.mark.parametrize("words", ["", "a photo"])
def test_contexts_are_drawn_from_the_generator_or_start_from_the_words(
    tiny: SimpleNamespace, clip: Any, words: str
) -> None:
    found = classes(tiny, clip, length=3, initial_words=words)
    first, same, other = (found.learner(np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.context_global, same.context_global)
    assert not torch.equal(first.context_global, other.context_global)
    expected = clip.token_embedding(tiny.tokenize(["a photo"]))[0, 1:3]
    for context in (first.context_global, first.context_local):
        assert context.shape == (3, 32)
        assert torch.equal(context[1:], expected) == bool(words)


def test_missing_label_set_is_told(run: Any) -> None:
    settings = run.job("zero-shot").settings
    with pytest.raises(UserError, match="nowhere"):
        Workroom("cpu").classes({**settings, "labels": str(run.root / "nowhere.yaml")})


def test_checkpoints_lie_beside_the_models_and_are_named_by_their_key(run: Any) -> None:
    room = Workroom("cpu")
    jobs = [run.job("t2i-pal"), run.job("t2i-pal-prompts"), run.job("t2i-pal", {"prompts.length": 3})]
    found = [room.bench(job).checkpoint("prompts") for job in jobs]
    assert {checkpoint.path.parent for checkpoint in found} == {run.root / "results" / "training" / "checkpoints"}
    assert found[0].path == found[1].path != found[2].path
    assert found[0].key == jobs[0].key("prompts")
    assert room.bench(jobs[0]).checkpoint("adapter").path.name.startswith("adapter-")


def test_adapters_are_tuned_once_for_models_that_differ_in_what_is_chosen_later(run: Any) -> None:
    room, tuned = Workroom("cpu"), []

    def tune(checkpoint: Any) -> Any:
        tuned.append(checkpoint.path)
        return [len(tuned)], []

    jobs = [run.job(*change) for change in (("t2i-pal",), *SAME_ADAPTERS.values(), SAME_PROMPTS["another adapter"])]
    found = [room.bench(job).adapters(tune)[0] for job in jobs]
    assert found == [[1], [1], [1], [2]]
    assert tuned == [room.bench(jobs[0]).checkpoint("adapter").path, room.bench(jobs[3]).checkpoint("adapter").path]
