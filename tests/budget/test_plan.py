"""What a run costs, counted from the configuration and from what lies in the results directory."""

import json
from pathlib import Path
from typing import Any

import pytest

from t2ipal.acquisition.catalogue import item
from t2ipal.budget import plan as planning
from t2ipal.budget.plan import Plan, as_json, check_disk, render
from t2ipal.budget.rates import measured, published
from t2ipal.config import Config, changed, parse
from t2ipal.errors import UserError
from t2ipal.experiments import named
from t2ipal.layout import Layout


def _config(tmp_path: Path, **changes: Any) -> Config:
    base = {"results": str(tmp_path / "results"), "seeds": [0, 1], "captions.total": 50}
    sizes = {"synthesis.shard_size": 20, "synthesis.batch_size": 10}
    return changed(parse({}), {**base, **sizes, **changes})


def plan(config: Config, experiment: str = "summary") -> Plan:
    return planning.plan(config, named(config, experiment))


def _finish(config: Config, seed: int, index: int, speed: float | None = 4.0, **changes: Any) -> None:
    """Lay a finished shard where the run would: 1,000 bytes an image."""
    layout = Layout(config)
    unit = layout.synthesis(seed)
    path = layout.directory(unit) / f"shard-{unit.pieces[index]}.tar"
    path.parent.mkdir(parents=True, exist_ok=True)
    count = int(unit.pieces[index].partition("-n")[2] or 20)
    path.write_bytes(bytes(1000 * count))
    facts = {"count": count, "images_per_second": speed, "device": "cuda:0 (GPU)", "settings": unit.settings}
    path.with_suffix(".json").write_text(json.dumps({**facts, **changes}))


def test_images_shards_and_jobs_follow_from_the_configuration(tmp_path: Path) -> None:
    found = plan(_config(tmp_path, **{"synthesis.images_per_caption": 2, "synthesis.shards_per_job": 4}))
    assert (found.images, found.shards, found.jobs) == (200, 12, 4)
    assert (found.images_done, found.shards_done, found.jobs_left) == (0, 0, 4)
    assert found.rate is None and "unknown" in render(found, _config(tmp_path))


def test_what_is_done_is_counted_and_tells_speed_and_size(tmp_path: Path) -> None:
    config = _config(tmp_path)
    for seed, index, speed in ((0, 0, 4.0), (0, 2, 8.0), (1, 1, 5.0)):
        _finish(config, seed, index, speed)
    _finish(config, 1, 0)
    (Layout(config).directory(Layout(config).synthesis(1)) / "shard-00000.json").unlink()
    found = plan(config)
    assert (found.images_done, found.images_left, found.shards_done) == (50, 50, 3)
    assert found.bytes_per_image == 1000
    assert found.rate is not None and found.rate.images_per_second == 5.0
    page = render(found, config)
    assert "100 (2 seeds), 50 done, 50 left" in page
    assert "10 s of one device" in page and "5.00 images/s on cuda:0 (GPU)" in page and "measured on 3 shards" in page
    assert json.loads(as_json(found))["rate"]["images_per_second"] == 5.0


def test_shards_drawn_otherwise_and_damaged_manifests_tell_nothing(tmp_path: Path) -> None:
    config = _config(tmp_path)
    _finish(changed(config, {"synthesis.steps": 3}), 0, 0, 99.0)
    _finish(config, 0, 1, None)
    _finish(config, 1, 0)
    (Layout(config).directory(Layout(config).synthesis(1)) / "shard-00000.json").write_text("{")
    found = measured(tmp_path / "results", Layout(config).synthesis(0).settings)
    assert found.rate is None and found.bytes_per_image == 1000


def test_a_published_speed_stands_in_and_is_named(tmp_path: Path) -> None:
    model = {"synthesis.model": "stable-diffusion-v1-5/stable-diffusion-v1-5", "synthesis.steps": 38}
    config = _config(tmp_path, **model, **{"synthesis.height": 512, "synthesis.width": 1024})
    rate = published(config.synthesis)
    assert rate is not None and rate.images_per_second == pytest.approx(19 / 38 / 2)
    assert "Titan RTX" in render(plan(config), config)
    assert published(_config(tmp_path).synthesis) is None


def test_a_disk_that_is_too_small_is_refused_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "free_bytes", lambda directory: 2**20)
    config = _config(tmp_path)
    _finish(config, 0, 0)
    fitting = plan(config)
    check_disk(fitting, config.results)
    large = plan(_config(tmp_path, **{"captions.total": 5000}))
    assert "refuse to start" in render(large, config)
    with pytest.raises(
        UserError, match=r"9,980 images to draw take about 0\.0 GiB, but the disk of .*results.*free some"
    ):
        check_disk(large, config.results)


def test_a_study_is_planned_like_the_table(tmp_path: Path) -> None:
    config = _config(tmp_path, **{"studies.steps": [2, 8]})
    found: Plan = plan(config, "study_steps")
    assert found.images == 200
    with pytest.raises(UserError, match="no experiment 'study_step'"):
        plan(config, "study_step")


def test_downloads_are_those_of_the_units_that_are_not_there_yet(tmp_path: Path):
    overlay = {"name": "voc2007", "downloads": str(tmp_path)}
    config = parse({"benchmark": overlay, "methods": ["zero-shot"], "features": {"backbone": "RN50"}})
    said = planning.downloads(config, named(config, "summary"))
    assert "voc2007-test" in said and "trainval" not in said and str(tmp_path) in said
    item("voc2007-test").manifest(tmp_path).write_text("{}")
    assert planning.downloads(config, named(config, "summary")) == ""
