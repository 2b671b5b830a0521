"""The stage on real feature files and a real label set; only the loading of the backbone is stood in for."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

from t2ipal.errors import UserError
from t2ipal.features import store
from t2ipal.learning import checkpoints, models, optimisation
from t2ipal.learning.clip_adapter import ClipAdapterHead
from t2ipal.learning.dual import DualHead
from t2ipal.learning.ensemble import EnsembleHead
from t2ipal.learning.heads import Head
from t2ipal.learning.linear import LinearHead
from t2ipal.learning.stage import train
from t2ipal.learning.workroom import Job
from t2ipal.methods import METHODS

NAMES = ("dog", "cat", "dining_table", "bus")
HEADS = {
    "none": Head,
    "prompts": Head,
    "linear": LinearHead,
    "clip-adapter": ClipAdapterHead,
    "dual": DualHead,
    "ensemble": EnsembleHead,
}


def jobs_of(run: Any, *methods: str, **more: Any) -> list[Job]:
    """The jobs of methods, each behind its members."""
    return [run.job(name, **more) for method in methods for name in (*METHODS[method].members, method)]


def trained(run: Any, method: str, changes: dict[str, Any] | None = None) -> Any:
    """The head of a method."""
    jobs = jobs_of(run, method, changes=changes)
    train(jobs, "cpu")
    return models.load(jobs[-1].output.parent)


def bytes_of(job: Job) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in job.output.parent.iterdir()}


@pytest.fixture
def epochs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every epoch that is run."""
    run_epoch, found = optimisation.run_epoch, []
    monkeypatch.setattr(optimisation, "run_epoch", lambda *given: found.append(1) or run_epoch(*given))
    return found


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_model_that_predicts(run: Any, tiny: SimpleNamespace, method: str) -> None:
    head = trained(run, method)
    job = run.job(method)
    assert type(head) is HEADS[METHODS[method].learner]
    assert head.labels == NAMES
    features = tiny.separable(10, 4, seed=9)
    scores = head.scores(features.global_, features.local, features.length)
    assert scores.shape == (10, 4) and scores.isfinite().all() and scores.std(dim=0).min() > 0
    description = models.read_description(job.output.parent)
    assert description["settings"] == job.settings and description["method"] == method
    assert description["features"] == job.settings["features"]
    chosen_on = [source for source, role in METHODS[method].data.items() if role != "learn"]
    assert (description["selection"] is None) == (description["calibration"] is None) == (not chosen_on)
    assert models.is_current(job.output, job.inputs)


def test_joint_model_holds_all_that_predicts_and_what_was_searched(run: Any) -> None:
    trained(run, "t2i-pal")
    job = run.job("t2i-pal")
    assert set(bytes_of(job)) == {"model.json", "model.safetensors"}
    tensors = load_file(job.output.with_name("model.safetensors"))
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    description = json.loads(job.output.read_text())
    scores = description["head"]["scores"]
    assert scores["beta"] in (1.0, 5.5)
    assert scores["pooling"] == "max"
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
    assert description["labels"] == description["head"]["labels"] == list(NAMES)
    assert description["head"]["prompt_names"] == ["dog", "cat", "dining table", "bus"]
    assert len(description["selection"]["table"]) == 2 * 2 * 2
    best = max(row["mAP"] for row in description["selection"]["table"])
    chosen = {"w_l": scores["w_l"], "alpha": scores["alpha"], "beta": scores["beta"]}
    assert description["selection"]["held_out_mAP"] == best
    assert any(row["mAP"] == best and chosen.items() <= row.items() for row in description["selection"]["table"])
    assert [(record["part"], record["epoch"]) for record in description["history"]] == [
        *(("prompts", epoch) for epoch in (1, 2, 3)),
        *(("adapter", epoch) for epoch in (1, 2)),
    ]


@pytest.mark.parametrize("method", ["zero-shot", "zero-shot-local", "zero-shot-normalised", "zero-shot-ensemble"])
def test_zero_shot_models_hold_the_templates_embeddings(
    run: Any, tiny: SimpleNamespace, clip: Any, method: str
) -> None:
    head = trained(run, method)
    sentences = [f"a photo of a {name}" for name in ("dog", "cat", "dining table", "bus")]
    expected = normalize(clip.encode_text(tiny.tokenize(sentences)), dim=-1)
    assert torch.allclose(head.global_embeddings, expected, atol=1e-6) == (method != "zero-shot-ensemble")
    assert torch.equal(head.global_embeddings, head.local_embeddings)
    assert (head.w_g, head.alpha, head.adapter, head.tau_s) == (1.0, 0.0, None, 40.0)
    assert head.w_l == (1.0 if method in ("zero-shot-local", "zero-shot-normalised") else 0.0)
    assert head.normalise == (method == "zero-shot-normalised")
    assert models.read_description(run.job(method).output.parent)["history"] == []


def test_zero_shot_without_heatmap_weighs_all_positions_alike(run: Any) -> None:
    assert trained(run, "zero-shot-local", {"scores.heatmap": False}).tau_s == 0.0


def test_methods_are_what_their_sentences_say(run: Any) -> None:
    template = trained(run, "zero-shot").global_embeddings
    heads = {method: trained(run, method) for method in METHODS if METHODS[method].learner == "prompts"}

    def learns(method: str) -> tuple[bool, bool]:
        head = heads[method]
        return not torch.equal(head.global_embeddings, template), not torch.equal(head.local_embeddings, template)

    for method in ("tip-adapter", "tip-adapter-f", "few-shot-tip-adapter-f"):
        assert learns(method) == (False, False)
        assert heads[method].w_l == 0.0 and heads[method].adapter.prototypes.shape[1] == 0
    assert learns("t2i-pal-adapter") == (False, False)
    assert learns("t2i-pal-global") == (True, False) and heads["t2i-pal-global"].w_l == 0.0
    for method in ("tai-dpt", "mixed-prompts", "t2i-pal-prompts", "t2i-pal-global", "few-shot-prompts"):
        assert heads[method].adapter is None
    for method in ("tai-dpt", "t2i-pal-prompts", "t2i-pal", "oracle", "few-shot-t2i-pal"):
        assert learns(method) == (True, True)
    assert heads["t2i-pal-no-heatmap"].tau_s == 0.0
    assert heads["t2i-pal-prototypes"].adapter.keys.shape[0] == 0
    assert heads["t2i-pal-cache"].adapter.prototypes.shape[1] == 0
    for method in ("t2i-pal-adapter", "t2i-pal", "t2i-pal-mixed", "oracle", "t2i-pal-no-heatmap"):
        assert heads[method].adapter.keys.shape[0] > 0 and heads[method].adapter.prototypes.shape == (4, 2, 16)
    features = store.read(run.job("tip-adapter").inputs).global_
    nearest = heads["tip-adapter"].adapter.keys @ normalize(torch.from_numpy(features).float(), dim=-1).T
    assert (nearest.amax(dim=1) > 1 - 1e-5).all()
    assert not torch.allclose(heads["tip-adapter"].adapter.keys, heads["tip-adapter-f"].adapter.keys, atol=1e-3)


def test_ensemble_adds_the_standardised_scores_of_its_members(run: Any, tiny: SimpleNamespace) -> None:
    head = trained(run, "dualcoop+t2i-pal")
    members = [models.load(run.job(name).output.parent) for name in ("dualcoop", "t2i-pal")]
    assert [type(member) for member in head.members] == [DualHead, Head]
    features = tiny.separable(10, 4, seed=9)
    inputs = (features.global_, features.local, features.length)
    expected = sum(
        (member.scores(*inputs) - mean) / deviation
        for member, mean, deviation in zip(members, head.means, head.deviations, strict=True)
    )
    assert torch.allclose(head.scores(*inputs), expected, atol=1e-5)
    assert head.weights == (1.0, 1.0)


def moved(jobs: Iterable[Job], root: Path) -> list[Job]:
    """The same jobs with their models, and those of their members, in another results directory."""
    folder = root / "training"
    return [
        Job(
            job.settings,
            folder / job.output.parent.name / "model.json",
            job.features,
            tuple(folder / member.name for member in job.members),
            job.verification,
        )
        for job in jobs
    ]


MANY = ("zero-shot", "t2i-pal-prompts", "t2i-pal", "dualcoop+t2i-pal", "t2i-pal-mixed", "comc", "clip-adapter")


def test_models_of_one_call_equal_those_of_a_call_each_whatever_their_order(run: Any) -> None:
    jobs = list({job.output: job for job in jobs_of(run, *MANY)}.values())
    together, backwards, alone = (moved(jobs, run.root / name) for name in ("together", "backwards", "alone"))
    train(together, "cpu")
    # Members stay before their ensemble.
    train(sorted(backwards[::-1], key=lambda job: bool(job.members)), "cpu")
    for job in alone:
        if not job.members:
            train([job], "cpu")
            # Not even the prompts of another model are there to share.
            for path in (run.root / "alone" / "training" / "checkpoints").glob("*"):
                path.unlink()
    train(alone, "cpu")
    for first, second, third in zip(together, backwards, alone, strict=True):
        assert bytes_of(first) == bytes_of(second) == bytes_of(third), first.settings["method"]


def test_equal_settings_and_features_give_equal_bytes_and_another_seed_does_not(run: Any) -> None:
    jobs = [run.job("t2i-pal", seed=seed) for seed in (0, 1)]
    again = moved(jobs, run.root / "again")
    train([*jobs, again[0]], "cpu")
    first, other, same = map(bytes_of, (*jobs, again[0]))
    assert first == same
    assert first["model.safetensors"] != other["model.safetensors"]


@pytest.mark.parametrize("together", [True, False])
def test_prompts_of_two_methods_are_tuned_once(run: Any, epochs: list[int], together: bool) -> None:
    jobs = [run.job(method) for method in ("t2i-pal-prompts", "t2i-pal")]
    for group in [jobs] if together else [jobs[:1], jobs[1:]]:
        train(group, "cpu")
    assert len(epochs) == 3 + 2
    prompts, joint = (load_file(job.output.with_name("model.safetensors")) for job in jobs)
    for name in ("context_global", "context_local", "global_embeddings", "local_embeddings"):
        assert torch.equal(prompts[name], joint[name])
    histories = [models.read_description(job.output.parent)["history"] for job in jobs]
    assert histories[0] == histories[1][:3]


def test_adapters_that_differ_in_alpha_are_tuned_once(run: Any, epochs: list[int]) -> None:
    jobs = [run.job("t2i-pal", {"adapter.alphas": [alpha]}) for alpha in (0.25, 1.0)]
    alone = moved(jobs[1:], run.root / "alone")
    train(jobs, "cpu")
    assert len(epochs) == 3 + 2
    train(alone, "cpu")
    assert len(epochs) == 2 * (3 + 2)
    assert bytes_of(jobs[1]) == bytes_of(alone[0])
    assert [models.load(job.output.parent).alpha for job in jobs] == [0.25, 1.0]


def test_finished_adapter_leaves_no_checkpoint_and_prompts_leave_one(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "INTERVAL", 0.0)
    trained(run, "t2i-pal")
    (left,) = (run.root / "results" / "training" / "checkpoints").iterdir()
    assert left.name.startswith("prompts-")


def stamps(job: Job) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in job.output.parent.iterdir()}


def test_current_models_are_not_touched_while_others_are_made(run: Any, epochs: list[int]) -> None:
    jobs = jobs_of(run, "dualcoop+t2i-pal")
    train(jobs, "cpu")
    before, done = [stamps(job) for job in jobs], len(epochs)
    train(jobs, "cpu")
    assert [stamps(job) for job in jobs] == before and len(epochs) == done
    train([*jobs, run.job("tai-dpt")], "cpu")
    assert [stamps(job) for job in jobs] == before and len(epochs) == done + 3


def backdate(jobs: Iterable[Job]) -> None:
    """Date all files an hour back, models after what they are made from."""
    jobs = list(jobs)
    inputs = {path for job in jobs for path in job.inputs if path.suffix == ".parquet"}
    models_of = [path for job in jobs for path in job.output.parent.iterdir()]
    for seconds, path in enumerate([*inputs, *models_of]):
        stamp = path.stat().st_mtime - 3600 + seconds
        os.utime(path, (stamp, stamp))


def test_model_older_than_its_features_is_made_again(run: Any) -> None:
    jobs = [run.job("t2i-pal"), run.job("tai-dpt")]
    train(jobs, "cpu")
    backdate(jobs)
    before = [stamps(job) for job in jobs]
    contents = [bytes_of(job) for job in jobs]
    train(jobs, "cpu")
    assert [stamps(job) for job in jobs] == before
    jobs[0].inputs[0].touch()
    train(jobs, "cpu")
    assert stamps(jobs[0])["model.json"] > before[0]["model.json"]
    assert stamps(jobs[1]) == before[1]
    assert [bytes_of(job) for job in jobs] == contents


def test_damaged_or_missing_model_is_made_again_and_so_is_the_ensemble_of_it(run: Any) -> None:
    jobs = jobs_of(run, "dualcoop+t2i-pal")
    train(jobs, "cpu")
    contents = [bytes_of(job) for job in jobs]
    for damage in ("cut", "missing"):
        backdate(jobs)
        before = [stamps(job) for job in jobs]
        weights = jobs[1].output.with_name("model.safetensors")
        stamp = weights.stat()
        if damage == "cut":
            weights.write_bytes(weights.read_bytes()[:-1])
            os.utime(weights, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        else:
            weights.unlink()
        train(jobs, "cpu")
        assert stamps(jobs[0]) == before[0]
        for number in (1, 2):
            assert stamps(jobs[number])["model.json"] > before[number]["model.json"]
        assert [bytes_of(job) for job in jobs] == contents


def test_features_made_anew_are_learned_from_anew(run: Any, tiny: SimpleNamespace) -> None:
    job = run.job("t2i-pal-prompts")
    train([job], "cpu")
    before = bytes_of(job)
    # Else the features may be written within the same tick of the file system's clock as the model.
    backdate([job])
    path = job.inputs[0]
    read = store.read([path])
    rows = store.Rows(read.keys, read.labels[::-1], read.unknown, read.global_, read.local, read.length)
    store.write(path, [rows], {"identity": read.meta["identity"]})
    train([job], "cpu")
    assert bytes_of(job)["model.safetensors"] != before["model.safetensors"]


def test_nothing_but_the_given_features_is_read(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [run.job(method) for method in ("t2i-pal-mixed", "t2i-pal", "tai-dpt", "t2i-pal-cache")]
    run.job("oracle")
    read, opened = store.read, []
    monkeypatch.setattr(store, "read", lambda paths: opened.extend(paths) or read(paths))
    train(jobs, "cpu")
    assert sorted(opened) == sorted(jobs[0].inputs)


def test_features_of_another_backbone_are_refused_and_nothing_is_written(run: Any) -> None:
    job = run.job("t2i-pal")
    settings = {**job.settings, "features": {**job.settings["features"], "model_identity": "sha256:big"}}
    with pytest.raises(UserError, match="another backbone"):
        train([Job(settings, job.output, job.features)], "cpu")
    assert not job.output.parent.exists()


def test_missing_features_are_told(run: Any) -> None:
    job = run.job("t2i-pal")
    job.inputs[1].unlink()
    with pytest.raises(UserError, match="part-00001"):
        train([job], "cpu")
    assert not job.output.parent.exists()


def test_missing_member_of_an_ensemble_is_told(run: Any) -> None:
    with pytest.raises(UserError, match="no trained model"):
        train([run.job("dualcoop+t2i-pal")], "cpu")


def test_what_was_made_before_a_failure_stays(run: Any) -> None:
    first, second = run.job("zero-shot"), run.job("t2i-pal")
    second.inputs[1].unlink()
    with pytest.raises(UserError):
        train([first, second], "cpu")
    assert models.is_current(first.output, first.inputs)
