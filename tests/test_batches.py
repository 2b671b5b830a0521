"""What shares one job."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from t2ipal.batches import Batch, ShardBatch, batches, part_batches, shard_batches
from t2ipal.config import Config, changed, parse
from t2ipal.experiments import experiments
from t2ipal.methods import METHODS
from t2ipal.units import Unit, closure


def _config(**changes: Any) -> Config:
    # Names of the hub stand for themselves, so that no model is looked at.
    models = {"features.backbone": "RN50", "synthesis.model": "hub/model"}
    return changed(parse({}), {**models, **changes})


def _stages(units: list[Unit], *stages: str) -> set[str]:
    return {f"{unit.stage}/{unit.run}" for unit in units if unit.stage in stages}


def _planned(config: Config, size: int) -> list[Batch]:
    return batches(experiments(config), size)


FULL = {
    "methods": list(METHODS),
    "backbones": [{"backbone": "ViT-B-32", "pretrained": "openai"}],
    "variants": {"own": {"method": "dualcoop+t2i-pal", "set": {"training.epochs": 3}}},
    "seeds": [0, 1],
}


@pytest.mark.parametrize("size", [1, 2, 5, 12, 1000])
@pytest.mark.parametrize("changes", [{}, FULL], ids=["default", "full"])
def test_every_training_and_evaluation_is_in_exactly_one_batch_of_at_most_the_size(changes: dict, size: int):
    config = _config(**changes)
    found = [f"{unit.stage}/{unit.run}" for batch in _planned(config, size) for unit in batch.units]
    needed = closure(unit for experiment in experiments(config).values() for unit in experiment.units)
    assert len(found) == len(set(found))
    assert set(found) == _stages(needed, "training", "evaluation")
    assert max(len(batch.units) for batch in _planned(config, size)) <= size


@pytest.mark.parametrize("size", [1, 3, 12])
@pytest.mark.parametrize("changes", [{}, FULL], ids=["default", "full"])
def test_members_of_ensembles_are_made_before_them(changes: dict, size: int):
    """In the order of the list every model's members are in an earlier batch or earlier in its own."""
    made: set[str] = set()
    ensembles = 0
    planned = [batch for batch in _planned(_config(**changes), size) if batch.stage == "training"]
    waiting = list(planned)
    while waiting:
        ready = [b for b in waiting if {u.run for u in b.upstream if u.stage == "training"} <= made]
        assert ready, "batches wait for each other"
        for batch in ready:
            for unit in batch.units:
                members = [above.run for above in unit.upstream if above.stage == "training"]
                assert made.issuperset(members)
                ensembles += bool(members)
                made.add(unit.run)
        waiting = [batch for batch in waiting if batch not in ready]
    assert ensembles > 0


def test_a_batch_reads_one_set_of_features_and_waits_for_all_that_its_units_are_made_from():
    for batch in _planned(_config(**FULL), 12):
        features = {tuple(u.run for u in unit.upstream if u.stage == "features") for unit in batch.units}
        assert len(features) == 1
        assert len({unit.stage for unit in batch.units}) == 1 and batch.units[0].stage == batch.stage
        own = {unit.run for unit in batch.units}
        needed = {above.run for unit in batch.units for above in unit.upstream}
        assert {above.run for above in batch.upstream} == needed - own
        assert len(batch.upstream) == len(needed - own)


def test_a_table_waits_for_no_study():
    found = experiments(_config())
    planned = batches(found, 12)
    summary = [unit.run for batch in planned if batch.experiment == "summary" for unit in batch.units]
    assert set(summary) == {u.run for u in found["summary"].units if u.stage in ("training", "evaluation")}
    order = list(dict.fromkeys(batch.experiment for batch in planned))
    assert order == [name for name in found if name in order]


def test_batches_of_one_stage_have_names_of_their_own():
    names = [(batch.stage, batch.name) for batch in _planned(_config(**FULL), 3)]
    assert len(names) == len(set(names))


def test_models_that_share_features_are_trained_together():
    planned = _planned(_config(methods=["t2i-pal", "t2i-pal-prompts", "tai-dpt"], seeds=[0]), 12)
    trained = [[u.name for u in b.units] for b in planned if (b.stage, b.experiment) == ("training", "summary")]
    assert trained == [["openmoji-t2i-pal-s0", "openmoji-t2i-pal-prompts-s0"], ["openmoji-tai-dpt-s0"]]


def test_a_model_of_hard_labels_waits_for_no_verification():
    config = _config(methods=["t2i-pal", "t2i-pal-filtered", "t2i-pal-soft"], seeds=[0])
    trained = [b for b in _planned(config, 12) if (b.stage, b.experiment) == ("training", "summary")]
    names = [{unit.settings["method"] for unit in batch.units} for batch in trained]
    assert names == [{"t2i-pal"}, {"t2i-pal-filtered", "t2i-pal-soft"}]
    assert [{above.stage for above in b.upstream} for b in trained] == [{"features"}, {"features", "verification"}]


def _shards(config: Config, size: int, *names: str) -> list[ShardBatch]:
    found = experiments(config)
    drawn = {name: [unit for unit in found[name].units if unit.stage == "synthesis"] for name in names or found}
    return shard_batches(drawn, size)


def _drawn(planned: list[ShardBatch]) -> list[tuple[str, str]]:
    return [(unit.run, piece) for batch in planned for unit, piece in batch.shards]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_every_shard_is_in_exactly_one_batch_of_at_most_the_size(size: int):
    config = _config()
    planned = _shards(config, size)
    units = [unit for found in experiments(config).values() for unit in found.units if unit.stage == "synthesis"]
    assert set(_drawn(planned)) == {(unit.run, piece) for unit in units for piece in unit.pieces}
    assert max(Counter(_drawn(planned)).values()) == 1
    assert max(len(batch.shards) for batch in planned) <= size


def test_shards_of_several_seeds_share_a_job_and_those_of_other_models_do_not():
    planned = _shards(_config(), 4, "summary", "study_steps")
    table = [batch for batch in planned if batch.experiment == "summary"]
    assert [len(batch.shards) for batch in table] == [4, 2]
    assert len({unit.settings["seed"] for unit, _ in table[0].shards}) == 2
    for batch in planned:
        assert len({unit.settings["steps"] for unit, _ in batch.shards}) == 1


def test_more_replicas_leave_the_jobs_that_there_are_alone():
    few, many = (_shards(_config(**{"synthesis.images_per_caption": n}), 4, "summary") for n in (1, 3))
    assert [_drawn([batch]) for batch in many[: len(few)]] == [_drawn([batch]) for batch in few]
    assert len(many) == 3 * len(few)


def test_a_job_is_given_the_captions_that_its_shards_need():
    for batch in _shards(_config(), 5):
        assert {unit.upstream[0].run for unit, _ in batch.shards} == {unit.run for unit in batch.captions}
        for unit, piece in batch.shards:
            first = int(piece.split("-")[0]) * unit.settings["shard_size"]
            assert first < unit.upstream[0].settings["total"]


def test_jobs_of_shards_have_names_of_their_own():
    names = [batch.name for batch in _shards(_config(), 2)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("size", [2, 3, 50])
def test_every_part_of_synthetic_features_is_in_one_batch_of_one_unit_and_replica(size: int):
    config = _config(**{"captions.total": 50, "synthesis.shard_size": 10, "synthesis.batch_size": 10, "seeds": [0, 1]})
    config = changed(config, {"synthesis.images_per_caption": 2})
    found = part_batches({"summary": experiments(config)["summary"]}, size)
    parts = [(batch.unit.run, piece) for batch in found for piece in batch.pieces]
    units = [unit for unit in experiments(config)["summary"].units if unit.stage == "features"]
    synthetic = [unit for unit in units if unit.settings["source"] == "synthetic"]
    assert sorted(parts) == sorted({(unit.run, piece) for unit in synthetic for piece in unit.pieces})
    assert len(parts) == 2 * 2 * 5
    for batch in found:
        assert len(batch.pieces) <= size
        assert len({"-r1" in piece for piece in batch.pieces}) == 1
        assert batch.synthesis.stage == "synthesis"


def test_more_replicas_leave_the_batches_of_parts_that_there_are_alone():
    config = _config(**{"captions.total": 50, "synthesis.shard_size": 10, "synthesis.batch_size": 10})
    before, after = (
        {batch.pieces for batch in part_batches(experiments(changed(config, {"synthesis.images_per_caption": n})), 3)}
        for n in (1, 2)
    )
    assert before < after
