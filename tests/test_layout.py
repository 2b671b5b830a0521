from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from t2ipal.config import Config, changed, parse
from t2ipal.errors import UserError
from t2ipal.experiments import experiments
from t2ipal.identity import clip_identity
from t2ipal.io import canonical_json
from t2ipal.layout import Layout
from t2ipal.methods import METHODS
from t2ipal.splits import split_index
from t2ipal.units import Unit, closure


@pytest.fixture
def models(tmp_path: Path) -> dict[str, dict[str, str]]:
    for name in ("clip", "text-to-image"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.safetensors").write_bytes(name.encode())
    return {
        "features": {"backbone": f"local-dir:{tmp_path}/clip"},
        "synthesis": {"model": f"local-dir:{tmp_path}/text-to-image"},
    }


def _config(models: dict, **changes) -> Config:
    values = {key: {**value, **changes.pop(key, {})} for key, value in models.items()}
    return parse({**values, **changes})


def _units(config: Config) -> list[Unit]:
    return experiments(config)["summary"].units


def _runs(config: Config) -> dict[str, set[str]]:
    runs: dict[str, set[str]] = {}
    for unit in _units(config):
        runs.setdefault(unit.stage, set()).add(unit.run)
    return runs


def _changed_stages(before: Config, after: Config) -> set[str]:
    old, new = _runs(before), _runs(after)
    return {stage for stage in old if old[stage] != new[stage]}


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({"training": {"epochs": 3}}, {"training", "evaluation"}),
        ({"adapter": {"prototypes": 2}}, {"training", "evaluation"}),
        ({"features": {"precision": "bfloat16"}}, {"features", "training", "evaluation"}),
        ({"synthesis": {"steps": 3}}, {"synthesis", "features", "training", "evaluation"}),
        ({"captions": {"total": 600}}, {"captions", "features", "training", "evaluation"}),
        ({"captions": {"max_classes": 1}}, {"captions", "synthesis", "features", "training", "evaluation"}),
        ({"synthesis": {"images_per_caption": 2}}, {"training", "evaluation"}),
        ({"synthesis": {"device": "cpu"}}, set()),
        ({"features": {"device": "cpu"}}, set()),
        ({"results": "elsewhere"}, set()),
    ],
)
def test_a_changed_key_changes_its_stage_and_those_below_only(models, change, stages):
    assert _changed_stages(_config(models), _config(models, **change)) == stages


def test_a_changed_training_key_leaves_methods_that_learn_nothing(models):
    before, after = (_runs(_config(models, training={"epochs": epochs}))["training"] for epochs in (3, 4))
    assert all("zero-shot" in run for run in before & after)
    assert len(before & after) == 2


def test_a_changed_synthesis_key_leaves_text_only_models(models):
    before, after = (_runs(_config(models, synthesis={"steps": steps}))["training"] for steps in (3, 4))
    assert any("tai-dpt" in run for run in before & after)
    assert not any("t2i-pal" in run for run in before & after)


def test_changing_back_gives_the_same_runs(models):
    before = _runs(_config(models))
    assert _runs(_config(models, training={"epochs": 3})) != before
    assert _runs(_config(models)) == before


def test_another_seed_or_method_only_adds_runs(models):
    few = _runs(_config(models, seeds=[0], methods=["t2i-pal"]))
    many = _runs(_config(models, seeds=[0, 1], methods=["t2i-pal", "oracle"]))
    assert all(few[stage] < many[stage] or (stage, few[stage]) == (stage, many[stage]) for stage in few)
    assert len(many["training"]) == 4


def test_shared_units_appear_once_and_after_what_they_need(models):
    units = _units(_config(models))
    names = [(unit.stage, unit.run) for unit in units]
    assert len(names) == len(set(names))
    assert sum("-test-" in run for _, run in names) == 1
    for position, unit in enumerate(units):
        assert all(names.index((above.stage, above.run)) < position for above in unit.upstream)


def test_seeds_share_data_when_it_is_not_redrawn(models):
    runs = _runs(_config(models, redraw_per_seed=False))
    assert len(runs["captions"]) == len(runs["synthesis"]) == 1
    assert sum("-t2i-pal-s" in run for run in runs["training"]) == 3
    redrawn = _runs(_config(models))
    assert len(redrawn["captions"]) == len(redrawn["synthesis"]) == 3


def test_changed_weights_change_what_is_made_with_them(models, tmp_path: Path):
    before = _config(models)
    other = tmp_path / "other"
    other.mkdir()
    (other / "weights.safetensors").write_bytes(b"others")
    after = _config(models, features={"backbone": f"local-dir:{other}"})
    assert _changed_stages(before, after) == {"features", "training", "evaluation"}


def test_a_missing_model_directory_gives_a_sentence(models, tmp_path: Path):
    config = _config(models, features={"backbone": f"local-dir:{tmp_path}/gone"})
    with pytest.raises(UserError, match=r"gone.*does not exist"):
        _units(config)


@pytest.mark.parametrize(("replicas", "size", "shards"), [(1, 50, 24), (2, 50, 48), (1, 1150, 2), (1, 1200, 1)])
def test_the_shards_follow_from_the_configuration(models, replicas, size, shards):
    synthesis = {"images_per_caption": replicas, "shard_size": size, "batch_size": 50}
    config = _config(models, captions={"total": 1200}, synthesis=synthesis)
    assert len(Layout(config).shards()) == shards


def _trainings(config: Config) -> dict[str, str]:
    """The run of every method's training with the first seed."""
    layout = Layout(config)
    return {name: layout.training(name, config.seeds[0]).run for name in METHODS}


def _where(condition) -> set[str]:
    """The methods for which ``condition`` holds, and the ensembles that they are members of."""
    found = {name for name, method in METHODS.items() if condition(method)}
    return found | {name for name, method in METHODS.items() if found & set(method.members)}


def _learners(*names: str):
    return lambda method: method.learner in names


def _verifiable(method) -> bool:
    return _learners("prompts", "clip-adapter")(method) and "synthetic" in method.data


def _softened(method) -> bool:
    return _verifiable(method) and method.data["synthetic"] != "choose"


_EMBEDDING = ("none", "prompts", "clip-adapter", "dual")


@pytest.mark.parametrize(
    ("key", "value", "depends"),
    [
        ("linear.noise", 0.3, _learners("linear")),
        ("clip_adapter.ratios", [0.5], _learners("clip-adapter")),
        ("adapter.alphas", [0.5], lambda m: m.adapter),
        ("adapter.prototypes", 3, lambda m: m.adapter and "adapter.prototypes" not in m.changes),
        ("prompts.template", "an image of a {}.", _learners(*_EMBEDDING)),
        ("prompts.learn_local", False, lambda m: _learners(*_EMBEDDING)(m) and "prompts.learn_local" not in m.changes),
        ("scores.tau", 5.0, _learners(*_EMBEDDING)),
        ("scores.heatmap", False, lambda m: _learners(*_EMBEDDING)(m) and "scores.heatmap" not in m.changes),
        ("loss.margin", 2.0, lambda m: m.learner not in ("none", "ensemble")),
        ("loss.name", "bce", lambda m: m.learner not in ("none", "ensemble", "dual")),
        ("training.epochs", 3, lambda m: m.data),
        ("training.held_out", 0.5, lambda m: m.data),
        ("captions.total", 50, lambda m: {"captions", "synthetic"} & set(m.data)),
        ("synthesis.steps", 3, lambda m: "synthetic" in m.data),
        ("benchmark.train_images", 50, lambda m: "train" in m.data),
        ("real.shots", 2, lambda m: m.real),
        ("real.known", 0.5, lambda m: m.real),
        ("features.precision", "bfloat16", lambda m: True),
        ("training.labels", "filtered", lambda m: _verifiable(m) and "training.labels" not in m.changes),
        ("training.labels", "soft", lambda m: _softened(m) and "training.labels" not in m.changes),
        ("training.presence", 0.7, lambda m: m.changes.get("training.labels") == "filtered"),
        ("verification.template", "a {}", lambda m: "training.labels" in m.changes),
        ("verification.backbone", "RN50", lambda m: "training.labels" in m.changes),
    ],
)
def test_a_changed_key_changes_exactly_the_models_that_depend_on_it(models, key, value, depends):
    before = _config(models)
    old, new = _trainings(before), _trainings(changed(before, {key: value}))
    expected = _where(depends)
    assert {name for name in METHODS if old[name] != new[name]} == expected
    assert expected


@pytest.mark.parametrize(
    "changes",
    [
        {"training.models_per_job": 1},
        {"methods": ["comc"]},
        {"seeds": [0, 5]},
        {"variants": {"own": {"method": "comc", "set": {"linear.noise": 0.5}}}},
        {"backbones": [{"backbone": "RN50"}]},
        {"studies.alpha": [1.0], "studies.images": [7]},
        {"pack.latents": 1, "pack.directory": "elsewhere"},
        {"benchmark.test_images": 21},
        {"benchmark.val_images": 21},
        {"results": "elsewhere"},
        {"redraw_per_seed": False},
        {"features.device": "cpu", "synthesis.device": "cpu"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_no_model_depends_on_changes_none(models, changes):
    before = _config(models)
    assert _trainings(changed(before, changes)) == _trainings(before)


def test_the_test_images_are_a_matter_of_evaluation(models):
    before = _config(models)
    assert _changed_stages(before, changed(before, {"benchmark.test_images": 21})) == {"features", "evaluation"}
    assert _changed_stages(before, changed(before, {"training.models_per_job": 1})) == set()


def test_no_model_of_any_experiment_is_made_from_or_told_of_test_images(models):
    backbones = [{"backbone": "RN50", "pretrained": "openai"}]
    variants = {"own": {"method": "oracle", "set": {"benchmark.test_images": 99}}}
    config = _config(models, backbones=backbones, variants=variants, methods=[*METHODS, "own"])
    everything = closure(unit for experiment in experiments(config).values() for unit in experiment.units)
    trainings = [unit for unit in everything if unit.stage == "training"]
    assert len(trainings) > 300
    for unit in closure(trainings):
        assert unit.settings.get("source") not in ("test", "val")
        assert unit.stage != "evaluation"
        assert "test_images" not in canonical_json(unit.settings)
        assert "val_images" not in canonical_json(unit.settings)
    for unit in everything:
        if unit.stage == "evaluation":
            model, features = unit.upstream
            assert (model.stage, features.stage, features.settings["source"]) == ("training", "features", "test")


@pytest.mark.parametrize("labels", ["filtered", "soft"])
def test_a_model_of_filtered_or_soft_labels_is_made_from_the_verification_too(models, labels):
    layout = Layout(_config(models))
    hard, other = layout.training("t2i-pal", 1), layout.training(f"t2i-pal-{labels}", 1)
    assert other.upstream == (*hard.upstream, layout.verification(1))
    assert other.settings["training"]["labels"] == labels
    assert not {"labels", "presence"} & set(hard.settings["training"])
    assert ("presence" in other.settings["training"]) == (labels == "filtered")


def test_no_unit_of_the_table_is_a_verification_unless_a_method_asks_for_it(models):
    assert "verification" not in _runs(_config(models))
    with_filter = _runs(_config(models, methods=["t2i-pal", "t2i-pal-filtered", "t2i-pal-soft"]))
    assert len(with_filter["verification"]) == 3


def test_a_verification_has_a_part_per_shard_and_belongs_to_the_images(models):
    config = _config(models, synthesis={"shard_size": 50, "steps": 3, "batch_size": 50})
    unit = Layout(config).verification(2)
    assert unit.upstream == (Layout(config).synthesis(2),)
    assert unit.pieces == Layout(config).shards()
    assert len(unit.pieces) == 32
    assert "device" not in unit.settings
    assert Layout(_config(models, redraw_per_seed=False)).verification(2).name == "openmoji-s0"


def test_the_evaluated_clip_verifies_if_none_is_named(models):
    config = changed(_config(models), {"features.backbone": "RN50", "features.pretrained": "openai"})
    chosen = {"verification.backbone": "ViT-B-32", "verification.pretrained": "openai"}
    same = {"verification.backbone": "RN50", "verification.pretrained": "openai"}
    found = [Layout(changed(config, changes)).verification(0).settings for changes in ({}, chosen, same)]
    assert [(s["backbone"], s["pretrained"], s["same_as_evaluated"]) for s in found] == [
        ("RN50", "openai", True),
        ("ViT-B-32", "openai", False),
        ("RN50", "openai", True),
    ]
    other_weights = changed(config, {**same, "verification.pretrained": "yfcc15m"})
    assert not Layout(other_weights).verification(0).settings["same_as_evaluated"]


def test_a_file_of_weights_counts_by_its_content(models, tmp_path: Path):
    file = tmp_path / "weights.safetensors"
    chosen = {"backbone": "RN50", "pretrained": str(file)}

    def fingerprints(content: bytes) -> list[str]:
        file.write_bytes(content)
        clip_identity.cache_clear()
        layout = Layout(_config(models, features=chosen, verification=chosen))
        return [unit.fingerprint for unit in (layout.features("test", 0), layout.verification(0), layout.synthesis(0))]

    before, after, again = (fingerprints(content) for content in (b"one", b"two", b"one"))
    assert before == again
    assert [one == two for one, two in zip(before, after, strict=True)] == [False, False, True]


def test_a_variant_has_units_of_its_own_and_shares_its_data(models):
    config = _config(models, variants={"own": {"method": "t2i-pal", "set": {"prompts.length": 2}}}, methods=["own"])
    layout = Layout(config)
    own, original = layout.training("own", 0), layout.training("t2i-pal", 0)
    assert own.name == "openmoji-own-s0" and own.settings["prompts"]["length"] == 2
    assert own.upstream == original.upstream
    assert own.fingerprint != original.fingerprint
    assert layout.evaluation("own", 0).run != layout.evaluation("t2i-pal", 0).run


def test_a_variant_of_the_data_has_data_of_its_own(models):
    config = _config(models, variants={"own": {"method": "t2i-pal", "set": {"synthesis.steps": 2}}})
    layout = Layout(config)
    own, original = ({unit.run for unit in closure([layout.evaluation(name, 0)])} for name in ("own", "t2i-pal"))
    shared = {run.rpartition("-")[0] for run in own & original}
    assert shared == {"openmoji-s0", "openmoji-test"}


def test_a_variant_that_repeats_its_method_is_a_unit_of_that_name(models):
    config = _config(models, variants={"own": {"method": "t2i-pal", "set": {"prompts.length": 4}}})
    assert Layout(config).training("own", 0).settings["method"] == "own"
    assert Layout(config).training("own", 0).run != Layout(config).training("t2i-pal", 0).run


def test_an_ensemble_is_made_from_its_members_and_what_it_is_chosen_on(models):
    layout = Layout(_config(models))
    unit = layout.training("dualcoop+t2i-pal", 1)
    assert [above.name for above in unit.upstream] == [
        "openmoji-dualcoop-s1", "openmoji-t2i-pal-s1", "openmoji-synthetic-s1", "openmoji-train",
    ]  # fmt: skip
    assert unit.upstream[:2] == (layout.training("dualcoop", 1), layout.training("t2i-pal", 1))


def test_a_variant_of_an_ensemble_varies_its_members_too(models):
    variants = {"own": {"method": "dualcoop+t2i-pal", "set": {"training.epochs": 3}}}
    layout = Layout(_config(models, variants=variants))
    dual, joint = layout.training("own", 1).upstream[:2]
    assert (dual.name, joint.name) == ("openmoji-dualcoop-s1", "openmoji-t2i-pal-s1")
    assert dual.settings["training"]["epochs"] == joint.settings["training"]["epochs"] == 3
    assert layout.training("dualcoop", 1).settings["training"]["epochs"] == 20


def test_methods_that_learn_nothing_exist_once_for_all_seeds(models):
    layout = Layout(_config(models))
    for name, method in METHODS.items():
        runs = {layout.training(name, seed).run for seed in (0, 1, 2)}
        assert len(runs) == (3 if method.data else 1)
        assert ("seed" in layout.training(name, 1).settings) == bool(method.data)


@pytest.mark.parametrize(
    ("source", "parts"), [("captions", 3), ("train", 2), ("val", 3), ("test", 5), ("synthetic", 6)]
)
def test_the_number_of_parts_follows_from_the_configuration(models, source, parts):
    config = _config(
        models,
        captions={"total": 25},
        benchmark={"train_images": 20, "val_images": 21, "test_images": 41},
        features={"part_size": 10},
        synthesis={"images_per_caption": 3, "shard_size": 20, "batch_size": 10},
    )
    assert len(Layout(config).parts(source)) == parts
    assert Layout(config).features(source, 0).pieces == Layout(config).parts(source)


def _above(config: Config, method: str = "t2i-pal") -> dict[str, Unit]:
    """The units that a model of the first seed is made from, and itself, by stage."""
    return {unit.stage: unit for unit in closure([Layout(config).training(method, 0)])}


@pytest.mark.parametrize("widened", [{"captions": {"total": 3200}}, {"synthesis": {"images_per_caption": 2}}])
def test_more_captions_and_replicas_add_shards_to_the_images_that_are_there(models, widened):
    before, after = _above(_config(models)), _above(_config(models, **widened))
    for stage in ("synthesis", "features"):
        assert before[stage].run == after[stage].run
        assert set(before[stage].pieces) < set(after[stage].pieces)
    assert before["training"].run != after["training"].run


def test_another_tokenizer_to_count_in_redraws_nothing(models):
    before, after = (_above(_config(models, captions={"tokenizer": name})) for name in ("RN50", "ViT-B-16-SigLIP"))
    assert before["captions"].run != after["captions"].run
    assert before["synthesis"].run == after["synthesis"].run


@pytest.mark.parametrize("changes", [{"max_classes": 1}, {"template": {"attributes": True}}, {"cap": 400}])
def test_other_captions_are_other_images(models, changes):
    before, after = _above(_config(models)), _above(_config(models, captions=changes))
    assert before["synthesis"].run != after["synthesis"].run


def test_how_jobs_go_about_it_changes_no_directory(models):
    changes = {"synthesis": {"shards_per_job": 1, "device": "cpu"}, "captions": {"llm": {"max_tokens": 7}}}
    assert _runs(_config(models)) == _runs(_config(models, **changes))
    with_llm = {"sources": {"llm": 1}, "llm": {"model": "hub/llm"}}
    asked = {**with_llm, "llm": {**with_llm["llm"], "cache": "elsewhere", "batch_size": 3, "device": "cpu"}}
    assert _runs(_config(models, captions=with_llm)) == _runs(_config(models, captions=asked))


def test_an_edited_corpus_gives_other_captions(models, tmp_path: Path):
    corpus = tmp_path / "corpus.txt"
    captions = {"sources": {"corpus": 1}, "corpus": {"files": [str(tmp_path / "*.txt")]}}
    corpus.write_text("a dog\n")
    before = Layout(_config(models, captions=captions)).captions(0).run
    corpus.write_text("a cat\n")
    assert Layout(_config(models, captions=captions)).captions(0).run != before
    corpus.unlink()
    with pytest.raises(UserError, match=r"captions.corpus.files: there is no file '.*\*.txt'"):
        Layout(_config(models, captions=captions)).captions(0)


def test_closure_gives_each_unit_once_and_upstream_first():
    top = Unit("captions", "a", {})
    left, right = Unit("features", "b", {"x": 1}, (top,)), Unit("features", "b", {"x": 2}, (top,))
    end = Unit("training", "c", {}, (right, left))
    assert closure([left, end, end, top]) == [top, left, right, end]
    assert closure([]) == []


def test_only_an_open_unit_may_be_given_more_pieces():
    def run(open_: bool, pieces: tuple[str, ...]) -> list[str]:
        above = Unit("features", "a", {}, pieces=pieces, open=open_)
        return [above.run, Unit("training", "b", {}, (above,)).run]

    (few, model), (many, other) = run(True, ("0",)), run(True, ("0", "1"))
    assert few == many and model != other
    assert run(False, ("0",)) == run(False, ("0", "1"))


def test_a_language_model_is_known_by_its_file_or_by_its_name_at_a_server(models, tmp_path: Path):
    (tmp_path / "a.gguf").write_bytes(b"weights")

    def run(**llm: Any) -> str:
        return Layout(_config(models, captions={"sources": {"llm": 1.0}, "llm": llm})).captions(0).run

    file = {"model": f"local-dir:{tmp_path}", "gguf": "a.gguf"}
    before = run(**file)
    (tmp_path / "beside.txt").write_text("of no account")
    assert run(**file) == before
    server = {"model": "m", "url": "http://localhost:1/v1"}
    assert run(**server) != run(**{**server, "model": "n"})
    assert run(**server) == run(**{**server, "url": "http://localhost:2/v1"}) != run(model="m")


def _voc(models: dict, **benchmark: Any) -> Config:
    return _config(models, benchmark={"name": "voc2007", **benchmark}, methods=["zero-shot", "t2i-pal", "oracle"])


def test_images_that_are_downloaded_need_the_manifests_of_their_archives(models):
    layout = Layout(_voc(models, downloads="d"))
    assert layout.index("test").needs == ("d/voc2007-test.json",)
    assert layout.index("train").needs == ("d/voc2007-trainval.json",)
    assert layout.features("test", 0).upstream == (layout.index("test"),)


def test_images_in_place_need_no_download_and_are_known_by_their_list(models, tmp_path: Path):
    lists = tmp_path / "VOC2007" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "test.txt").write_text("000001\n")
    before = Layout(_voc(models, path=str(tmp_path))).index("test")
    assert before.needs == ()
    (lists / "test.txt").write_text("000002\n")
    split_index.cache_clear()
    assert Layout(_voc(models, path=str(tmp_path))).index("test").run != before.run


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({"difficult": "ignored"}, {"index", "features", "training", "evaluation"}),
        ({"test_images": 100}, {"index", "features", "evaluation"}),
        ({"missing": 0.1}, {"evaluation"}),
        ({"mirrors": ["http://a/"]}, set()),
    ],
)
def test_a_changed_key_of_a_benchmark_of_files_changes_what_depends_on_it(models, change, stages):
    assert _changed_stages(_voc(models), _voc(models, **change)) == stages


def test_how_many_images_may_be_missing_is_told_to_jobs_and_no_part_of_the_features(models):
    layout = Layout(_voc(models, missing=0.25))
    for unit in (layout.index("test"), layout.features("test", 0)):
        assert unit.operation["missing"] == 0.25 and "missing" not in str(unit.settings)


def test_a_corpus_that_is_downloaded_is_known_by_its_archive(models):
    captions = {
        "sources": {"corpus": 1.0, "template": 0},
        "corpus": {"files": ["d/coco/annotations/captions_train2014.json"], "format": "coco"},
    }
    unit = Layout(_config(models, benchmark={"downloads": "d"}, captions=captions)).captions(0)
    assert unit.needs == ("d/coco2014-annotations.json",)
    assert unit.settings["sources"] == {"corpus": 1.0}


def test_keys_that_came_later_leave_old_fingerprints_where_they_say_nothing(models):
    settings = Layout(_config(models)).features("test", 0).settings
    assert "input_size" not in settings and "resize" not in settings
    wider = _config(models, features={"input_size": 336})
    assert Layout(wider).features("test", 0).settings["input_size"] == 336
