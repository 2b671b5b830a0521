"""Filtered and soft labels on the real DAG: what runs, what does not, and that hard labels are left alone."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from t2ipal.verification import store

METHODS = ["t2i-pal", "t2i-pal-filtered", "t2i-pal-soft"]
OVERLAY = {"methods": METHODS}

pytestmark = pytest.mark.slow


def _jobs(project, *arguments: str, **options) -> Counter[str]:
    """Jobs per kind of rule that a run would do now, target rules apart; of the last table, as there may be two."""
    shown = project.run("--dry-run", *arguments, **options).stdout.rpartition("Job stats:")[2]
    jobs: Counter[str] = Counter()
    for rule, count in re.findall(r"^([a-z_]+?)(?:_\d+)? +(\d+)$", shown, flags=re.M):
        if rule != "total" and not rule.endswith("_all"):
            jobs[rule] += int(count)
    return jobs


@pytest.fixture(scope="module")
def labelled(finished, tmp_path_factory: pytest.TempPathFactory):
    """The finished project after a run with filtered and soft labels too."""
    project = finished.copy(tmp_path_factory.mktemp("verification") / "labelled")
    planned = _jobs(project, overlay=OVERLAY)
    project.run(overlay=OVERLAY)
    return project, planned


def test_a_table_of_hard_labels_verifies_nothing(finished):
    assert not (finished.results / "verification").exists()
    assert "are not verified" in (finished.results / "report.html").read_text()


def test_images_are_verified_shard_by_shard_and_only_models_of_other_labels_are_trained(labelled):
    _, planned = labelled
    assert planned == {
        "verification": 4,
        # Of 2 seeds: filtered and soft together.
        "training": 2,
        "evaluation": 1,
        "gap": 2,
        "summary": 1,
        "report": 1,
    }


def test_a_second_run_has_nothing_to_do(labelled):
    project, _ = labelled
    assert _jobs(project, overlay=OVERLAY) == {}


def test_models_of_hard_labels_are_byte_for_byte_those_of_a_run_without_the_others(finished, labelled):
    project, _ = labelled
    before = {path: content for path, content in finished.bytes_of("training").items() if "checkpoints" not in path}
    assert before.items() < project.bytes_of("training").items()
    hard, filtered, soft = (
        {path.read_bytes() for path in project.results.glob(f"training/*-{method}-s0-*/model.safetensors")}
        for method in METHODS
    )
    assert len(hard) == len(filtered) == len(soft) == 1
    assert len(hard | filtered | soft) == 3


def test_a_model_of_hard_labels_made_beside_the_others_has_the_same_bytes(finished, fresh):
    fresh.run("training_all", overlay={**OVERLAY, "seeds": [0]})
    made = [path.relative_to(fresh.root) for path in fresh.results.glob("training/*-t2i-pal-s0-*/model.*")]
    assert len(made) == 2
    assert all((fresh.root / path).read_bytes() == (finished.root / path).read_bytes() for path in made)


def test_parts_tell_of_all_images_and_the_log_warns_of_the_same_clip(labelled):
    project, _ = labelled
    runs = sorted((project.results / "verification").iterdir())
    assert len(runs) == 2
    for run in runs:
        found = store.read(sorted(run.glob("part-*.parquet")))
        assert found.values.shape == (40, 20) and found.meta["same_as_evaluated"]
    logs = [path.read_text() for path in (project.results / "logs/verification").rglob("*.log")]
    assert len(logs) == 4 and all(log.count(store.SAME) == 1 for log in logs)
    report = (project.results / "report.html").read_text()
    assert "Of 40 images" in report and store.SAME in report


def test_a_deleted_part_is_made_again_alone_and_equal(labelled, tmp_path):
    project = labelled[0].copy(tmp_path / "project")
    part = sorted(project.results.glob("verification/*/part-00001.parquet"))[0]
    content = part.read_bytes()
    part.unlink()
    planned = _jobs(project, overlay=OVERLAY)
    assert planned["verification"] == 1 and not {"captions", "synthesis", "features_synthetic"} & set(planned)
    project.run(overlay=OVERLAY)
    assert part.read_bytes() == content
    assert _jobs(project, overlay=OVERLAY) == {}


def test_another_verifier_or_threshold_trains_what_depends_on_it(labelled):
    project, _ = labelled
    stricter = _jobs(project, overlay={**OVERLAY, "training": {"presence": 0.25}})
    assert stricter["training"] == 2 and "verification" not in stricter
    other = _jobs(project, overlay={**OVERLAY, "verification": {"template": "the {}"}})
    assert other["verification"] == 4 and other["training"] == 2 and "synthesis" not in other


def test_the_images_can_be_verified_without_any_method(fresh):
    planned = _jobs(fresh, "verification_all")
    assert planned == {"captions": 2, "synthesis": 2, "verification": 4}
