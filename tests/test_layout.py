from __future__ import annotations

from pathlib import Path

import pytest

from t2ipal.config import Config, parse
from t2ipal.errors import UserError
from t2ipal.layout import Layout


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


def _runs(config: Config) -> dict[str, set[str]]:
    runs: dict[str, set[str]] = {}
    for unit in Layout(config).units():
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
        ({"captions": {"total": 600}}, {"captions", "synthesis", "features", "training", "evaluation"}),
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
    units = Layout(_config(models)).units()
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
        Layout(config).units()


@pytest.mark.parametrize(("replicas", "size", "shards"), [(1, 50, 24), (2, 50, 48), (1, 1150, 2), (1, 1200, 1)])
def test_the_number_of_shards_follows_from_the_configuration(models, replicas, size, shards):
    synthesis = {"images_per_caption": replicas, "shard_size": size, "batch_size": 50}
    config = _config(models, captions={"total": 1200}, synthesis=synthesis)
    assert Layout(config).shards() == shards
