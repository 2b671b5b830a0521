"""Tables and studies: what they run, what they share, and how it is batched."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from t2ipal.config import Config, changed, members, parse
from t2ipal.errors import UserError
from t2ipal.experiments import AXES, DATA_MODES, LABEL_MODES, NAMES, Experiment, experiments, named
from t2ipal.methods import ABLATIONS, METHODS
from t2ipal.settings import StudySettings
from t2ipal.units import Unit


def _config(**changes) -> Config:
    # Names of the hub stand for themselves, so that no model is looked at.
    models = {"features.backbone": "RN50", "synthesis.model": "hub/model"}
    return changed(parse({}), {**models, **changes})


def _stages(units: list[Unit], *stages: str) -> set[str]:
    return {f"{unit.stage}/{unit.run}" for unit in units if unit.stage in stages}


def _evaluations(experiment: Experiment, method: str, value: object) -> list[Unit]:
    return [entry.unit for entry in experiment.entries if (entry.method, entry.value) == (method, value)]


DATA = ("captions", "synthesis", "features")


def test_the_table_of_eval_all_comes_first_and_is_that_of_the_configured_methods_and_seeds():
    config = _config(methods=["t2i-pal", "zero-shot"], seeds=[4, 2])
    first = next(iter(experiments(config).values()))
    assert first.name == "summary"
    entries = [(entry.method, entry.seed, entry.value) for entry in first.entries]
    assert entries == [("t2i-pal", 4, None), ("t2i-pal", 2, None), ("zero-shot", 4, None), ("zero-shot", 2, None)]


def test_the_table_of_ablations_ends_with_the_variants():
    config = _config(variants={"own": {"method": "t2i-pal", "set": {"prompts.length": 2}}})
    methods = dict.fromkeys(entry.method for entry in experiments(config)["ablations"].entries)
    assert list(methods) == [*ABLATIONS, "own"]


@pytest.mark.parametrize("name", AXES)
def test_an_axis_is_of_keys_values_and_methods_that_exist(name: str):
    axis, config = AXES[name], _config()
    assert {*axis.methods, *axis.references} <= set(METHODS)
    section, _, key = axis.key.partition(".")
    for value in getattr(config.studies, axis.field):
        found = getattr(getattr(changed(config, {axis.key: axis.setting(value)}), section), key)
        assert found == (tuple(axis.setting(value)) if axis.listed else axis.setting(value))


def test_every_list_of_values_is_an_axis():
    assert {axis.field for axis in AXES.values()} == set(StudySettings.model_fields)


@pytest.mark.parametrize("name", AXES)
def test_a_study_runs_its_methods_at_each_value_and_its_references_once(name: str):
    config = _config(seeds=[0, 1])
    axis, experiment = AXES[name], experiments(config)[name]
    values = getattr(config.studies, axis.field)
    expected = [(method, seed, None) for method in axis.references for seed in (0, 1)]
    expected += [(method, seed, value) for value in values for method in axis.methods for seed in (0, 1)]
    assert [(entry.method, entry.seed, entry.value) for entry in experiment.entries] == expected
    assert (experiment.label, experiment.log) == (axis.label, axis.log)
    for entry in experiment.entries:
        section, _, key = axis.key.partition(".")
        found = getattr(getattr(entry.layout.config, section), key)
        base = getattr(getattr(config, section), key)
        expected_value = tuple(axis.setting(entry.value)) if axis.listed else axis.setting(entry.value)
        assert found == (base if entry.value is None else expected_value)


@pytest.mark.parametrize("name", ["study_alpha", "study_beta", "study_prototypes", "study_context", "study_loss"])
def test_a_study_of_training_shares_all_images_and_features_with_the_table(name: str):
    found = experiments(_config())
    table, study = found["summary"].units, found[name].units
    assert _stages(study, *DATA) <= _stages(table, *DATA)
    added = _stages(study, "training", "evaluation") - _stages(table, "training", "evaluation")
    assert Counter(unit.partition("/")[0] for unit in added)["training"] == len(added) / 2 > 0


@pytest.mark.parametrize(("name", "values"), [("study_guidance", [3, 5]), ("study_steps", [8, 2])])
def test_a_study_of_synthesis_shares_captions_and_draws_only_what_differs(name: str, values: list):
    found = experiments(_config(**{f"studies.{AXES[name].field}": values}, seeds=[0]))
    table, study = found["summary"].units, found[name].units
    assert _stages(study, "captions") == _stages(table, "captions")
    assert len(_stages(study, "synthesis") - _stages(table, "synthesis")) == 1


@pytest.mark.parametrize(("name", "values"), [("study_replicas", [1, 2]), ("study_images", [1600, 3200])])
def test_a_study_of_more_images_adds_shards_to_those_of_the_table(name: str, values: list):
    found = experiments(_config(**{f"studies.{AXES[name].field}": values}, seeds=[0]))
    drawn = [
        {(unit.run, piece) for unit in found[experiment].units if unit.stage == "synthesis" for piece in unit.pieces}
        for experiment in ("summary", name)
    ]
    assert drawn[0] < drawn[1]
    assert len(drawn[1]) == 2 * len(drawn[0])


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("study_images", 1600),
        ("study_replicas", 1),
        ("study_guidance", 3.0),
        ("study_steps", 8),
        ("study_classes", 2),
        ("study_prototypes", 1),
        ("study_context", 4),
        ("study_loss", "ranking"),
        ("study_presence", 0.5),
    ],
)
def test_a_study_at_the_configured_value_is_the_very_unit_of_the_table(name: str, default: object):
    found = experiments(
        _config(methods=["tai-dpt", "t2i-pal-prompts", "t2i-pal", "t2i-pal-prototypes", "t2i-pal-filtered"])
    )
    for method in AXES[name].methods:
        expected = _evaluations(found["summary"], method, None)
        assert _evaluations(found[name], method, default) == expected
        others = {entry.unit.run for entry in found[name].entries if entry.method == method and entry.value != default}
        assert not others & {unit.run for unit in expected}


@pytest.mark.parametrize(("name", "key"), [("study_alpha", "adapter.alphas"), ("study_beta", "adapter.betas")])
def test_a_fixed_weight_is_the_search_among_itself(name: str, key: str):
    found = experiments(_config(**{key: [1.0]}))
    assert _evaluations(found[name], "t2i-pal", 1.0) == _evaluations(found["summary"], "t2i-pal", None)


def test_references_are_the_very_units_of_the_table():
    found = experiments(_config(methods=["zero-shot-local", "t2i-pal", "t2i-pal-prompts", "oracle"]))
    table = {unit.run for unit in found["summary"].units}
    references = {entry.unit.run for name in AXES for entry in found[name].entries if entry.value is None}
    assert references and references <= table


def test_what_prompts_learn_from_is_compared_with_units_of_the_other_tables():
    found = experiments(_config())
    study = found["study_data"]
    pairs = dict.fromkeys((entry.value, entry.method) for entry in study.entries)
    assert list(pairs) == list(DATA_MODES.items())
    assert {entry.unit for entry in study.entries} <= {entry.unit for entry in found["ablations"].entries}


def test_labels_of_synthetic_images_are_compared_with_units_of_the_other_tables():
    found = experiments(_config())
    pairs = dict.fromkeys((entry.value, entry.method) for entry in found["study_filter"].entries)
    assert list(pairs) == list(LABEL_MODES.items())
    assert {entry.unit for entry in found["study_filter"].entries} <= {e.unit for e in found["ablations"].entries}


def test_the_study_of_labels_has_hard_ones_whatever_the_configuration_says():
    study, other = (experiments(_config(**changes))["study_filter"] for changes in ({}, {"training.labels": "soft"}))
    assert [entry.unit for entry in other.entries] == [entry.unit for entry in study.entries]


def test_backbones_are_compared_with_the_configured_one_first_and_each_once():
    listed = 2 * [{"backbone": "ViT-B-32", "pretrained": "openai"}, {"backbone": "RN50"}]
    found = experiments(_config(backbones=[*listed, {"backbone": "RN50", "pretrained": "openai"}], seeds=[0]))
    features = [entry.layout.config.features for entry in found["backbones"].entries if entry.method == "t2i-pal"]
    assert [(f.backbone, f.pretrained) for f in features] == [
        ("RN50", None),
        ("ViT-B-32", "openai"),
        ("RN50", "openai"),
    ]
    table, compared = found["summary"].units, found["backbones"].units
    assert _stages(compared, "captions", "synthesis") == _stages(table, "captions", "synthesis")
    assert _stages(table, "evaluation") < _stages(compared, "evaluation")


def test_one_experiment_is_found_by_its_name_and_an_unknown_one_is_refused():
    config = _config()
    assert named(config, "few_shot").title == "Few real images beside synthetic ones"
    for name in ("study_alph", "", "eval_all"):
        with pytest.raises(UserError, match=rf"no experiment '{name}'; there are summary, ablations, .*study_data$"):
            named(config, name)


def test_names_can_be_files_and_targets_and_are_all_there():
    assert list(experiments(_config())) == list(NAMES)
    assert all(name.replace("_", "").isalpha() and name.islower() for name in NAMES)


@pytest.mark.parametrize("name", ["few_shot", "partial_labels"])
def test_a_study_of_real_images_is_refused_where_there_are_none(name: str, tmp_path: Path):
    (tmp_path / "1.png").write_bytes(b"")
    images = {"benchmark.name": "own", "benchmark.path": str(tmp_path), "methods": ["zero-shot"]}
    with pytest.raises(UserError, match=rf"'{name}' learns from real images, and benchmark 'own' has no train images"):
        named(_config(**images), name)


def test_a_study_of_several_benchmarks_is_refused_with_the_key(tmp_path: Path):
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "a.yaml").write_text("benchmark: {test_images: 100}\n")
    (tmp_path / "b.yaml").write_text(f"benchmark: {{name: own, path: {tmp_path}}}\n")
    files = [str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")]
    together = _config(together=files, methods=["zero-shot"])
    assert named(together, "ablations").entries
    with pytest.raises(UserError, match="'study_loss' is of one benchmark, and config key 'together' names several"):
        named(together, "study_loss")


def test_a_study_value_that_does_not_fit_is_refused_with_its_key():
    with pytest.raises(UserError, match=r"captions\.max_classes.*less than or equal to 5"):
        experiments(_config(**{"studies.classes": [1, 6]}))
    with pytest.raises(UserError, match=r"loss\.name"):
        experiments(_config(**{"studies.loss": ["hinge"]}))


def test_a_value_listed_twice_is_measured_once():
    found = experiments(_config(**{"studies.guidance": [3, 3.0, 5]}, seeds=[0]))
    assert [entry.value for entry in found["study_guidance"].entries] == [3, 3, 5, 5]


def test_what_does_not_fit_is_told_when_the_experiments_are_asked_for(tmp_path):
    variant = {"method": "t2i-pal", "set": {"prompts.lenght": 2}}
    with pytest.raises(UserError, match=r"prompts\.lenght"):
        experiments(_config(variants={"own": variant}))
    with pytest.raises(UserError, match=r"gone.* does not exist"):
        experiments(_config(backbones=[{"backbone": f"local-dir:{tmp_path}/gone"}]))


@pytest.mark.parametrize(
    ("key", "gone"),
    [
        ("adapter.keys_per_class", {"tip-adapter", "tip-adapter-f", "t2i-pal-cache"}),
        ("adapter.prototypes", {"t2i-pal-prototypes"}),
    ],
)
def test_methods_of_which_the_configuration_leaves_nothing_are_left_out_of_tables_and_studies(key: str, gone: set):
    found = experiments(_config(**{key: 0}))
    assert {entry.method for entry in found["ablations"].entries} == set(ABLATIONS) - gone
    assert not {entry.method for name in AXES if AXES[name].key != key for entry in found[name].entries} & gone
    if key == "adapter.keys_per_class":
        assert {entry.method for entry in found["few_shot"].entries if entry.value} == {
            "few-shot-prompts",
            "few-shot-t2i-pal",
        }
    with pytest.raises(UserError, match="prototypes and keys_per_class are both 0"):
        experiments(_config(**{key: 0}, methods=[min(gone)]))


def test_no_prototypes_are_a_value_of_their_study():
    study = experiments(_config(**{"studies.prototypes": [0, 2]}, seeds=[0]))["study_prototypes"]
    pairs = [(entry.method, entry.value) for entry in study.entries]
    assert pairs == [("t2i-pal", 0), ("t2i-pal-prototypes", 2), ("t2i-pal", 2)]


def test_an_empty_study_is_its_references_alone():
    found = experiments(_config(**{"studies.alpha": [], "studies.steps": []}))
    assert {entry.method for entry in found["study_alpha"].entries} == {"t2i-pal-prompts"}
    assert found["study_steps"].entries == ()
    assert found["study_steps"].units == []


def _photos(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    return {"name": "own", "path": str(tmp_path / "photos")}


def test_a_benchmark_without_real_training_images_has_no_rows_of_them(tmp_path: Path):
    found = experiments(parse({"benchmark": _photos(tmp_path), "methods": ["zero-shot", "t2i-pal"]}))
    assert not {"few_shot", "partial_labels"} & set(found)
    assert all("train" not in METHODS[e.method].data for one in found.values() for e in one.entries)
    assert {"t2i-pal", "comc"} <= {entry.method for entry in found["ablations"].entries}


def test_an_oracle_that_is_asked_for_without_real_images_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="benchmark 'own' has no train images"):
        experiments(parse({"benchmark": _photos(tmp_path), "methods": ["oracle"]}))


def test_several_benchmarks_share_tables_and_have_no_studies(tmp_path: Path):
    for name in ("voc2007", "coco2014"):
        labels = name.removesuffix("2014")
        (tmp_path / name).write_text(yaml.safe_dump({"benchmark": {"name": name, "labels": labels}}))
    config = parse({"together": [str(tmp_path / "voc2007"), str(tmp_path / "coco2014")], "methods": ["zero-shot"]})
    found = experiments(config)
    assert set(found) == {"summary", "ablations", "backbones"}
    assert [e.layout.config.benchmark.name for e in found["summary"].entries] == ["voc2007"] * 3 + ["coco2014"] * 3
    first, second = members(config)
    assert [e.layout.config for e in found["summary"].on(second.benchmark).entries] == [second] * 3 != [first] * 3
