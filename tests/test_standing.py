from __future__ import annotations

import base64
import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t2ipal.config import Config, changed, parse
from t2ipal.io import write_json
from t2ipal.layout import Layout
from t2ipal.standing import Standing, as_json, begun, render, standing


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return parse(
        {
            "results": str(tmp_path / "results"),
            "seeds": [0],
            "methods": ["zero-shot", "tai-dpt"],
            "benchmark": {"test_images": 20},
            "captions": {"total": 20},
            "synthesis": {"model": "hub/model"},
            "features": {"backbone": "RN50"},
        }
    )


def _finish(config: Config, *stages: str) -> None:
    """Lay the files of the units of these stages, each stage newer than those before."""
    from t2ipal.experiments import experiments

    layout = Layout(config)
    for age, unit in enumerate(experiments(config)["summary"].units):
        if unit.stage in stages:
            for path in layout.files(unit):
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.suffix == ".json":
                    write_json(path, {"settings": unit.settings})
                else:
                    path.write_text("x")
                os.utime(path, (1000 + age, 1000 + age))


ALL = ("captions", "features", "training", "evaluation")
Stand = Callable[..., Standing]


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    def of(config: Config, **more: Any) -> Standing:
        return standing(config, snakemake=tmp_path / ".snakemake", **more)

    return of


def test_an_empty_directory_has_everything_to_do(config, stand):
    found = stand(config)
    assert {stage.stage: (stage.units, stage.done) for stage in found.stages} == {
        "captions": (1, 0),
        "features": (2, 0),
        "training": (2, 0),
        "evaluation": (2, 0),
    }
    assert not found.is_done and not found.running
    assert "the next run makes what is missing" in render(found)


def test_a_finished_run_is_done(config, stand):
    _finish(config, *ALL)
    found = stand(config)
    assert found.is_done and not found.leftovers and not found.stale
    assert "all done" in render(found)
    assert json.loads(as_json(found))["is_done"] is True


def test_what_is_older_than_what_it_is_made_from_is_named_with_it(config, stand):
    _finish(config, *ALL)
    unit = Layout(config).training("tai-dpt", 0)
    for path in Layout(config).files(unit):
        os.utime(path, (9000, 9000))
    found = stand(config)
    ((stale, newer),) = found.stale
    assert "evaluation" in stale and unit.run in newer and not found.is_done
    assert f"{stale} (newer: {newer})" in render(found)


def test_models_of_another_configuration_are_left_over_and_say_which_keys_differ(config, stand):
    _finish(config, *ALL)
    found = stand(changed(config, {"training.epochs": 31}))
    (model,) = [left for left in found.leftovers if "/training/" in left.path]
    assert "training.epochs 20, now 31" in model.why or "training.epochs" in model.why
    assert "31" in model.why and model.bytes > 0
    assert {stage.stage: stage.done for stage in found.stages}["captions"] == 1


def test_what_another_seed_left_is_said_to_be_of_no_unit(config, stand):
    _finish(changed(config, {"seeds": [7]}), *ALL)
    assert {left.why for left in stand(config).leftovers} >= {"no method, seed or benchmark of this configuration"}


def test_a_run_that_holds_the_results_is_seen_and_its_jobs_are_under_way(config, stand, tmp_path: Path):
    _finish(config, "captions")
    (path,) = Layout(config).files(Layout(config).captions(0))
    name = base64.urlsafe_b64encode(str(path).encode()).decode()
    marker = tmp_path / ".snakemake" / "incomplete"
    # As Snakemake does with names that are longer than the file system allows.
    folder = marker / f"@{name[:100]}"
    folder.mkdir(parents=True)
    (folder / name[100:]).write_text("")
    assert begun(tmp_path / ".snakemake") == {str(path)}
    broken_off = stand(config)
    assert not broken_off.running and "1 broken off, made again by the next run" in render(broken_off)
    with (Path(config.results) / ".claim").open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        found = stand(config)
    assert found.running and found.under_way == (str(path),)
    assert "a run is writing to it now" in render(found) and "1 under way" in render(found)


def test_markers_that_are_no_names_are_passed_over(tmp_path: Path):
    (tmp_path / "incomplete").mkdir()
    (tmp_path / "incomplete" / "!!!").write_text("")
    assert begun(tmp_path) == set()
