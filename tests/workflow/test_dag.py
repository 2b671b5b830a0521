"""What runs, what is found done, and what a crash leaves: on the real DAG."""

from __future__ import annotations

import json
import random
import zipfile

import pyarrow.parquet as pq
import pytest

SUMMARY = {"summary": 1, "report": 1}
# The modality gap is measured once for each seed.
GAP = {"gap": 2}
BELOW = {
    "captions": ("captions", "synthesis", "features", "training", "gap", "evaluation"),
    "synthesis": ("synthesis", "features", "training", "gap", "evaluation"),
    "features": ("features", "training", "gap", "evaluation"),
    "training": ("training", "gap", "evaluation"),
    "evaluation": ("evaluation",),
}

pytestmark = pytest.mark.slow


def test_an_empty_directory_plans_every_stage(fresh):
    assert fresh.planned() == {
        "captions": 2,
        # Four shards, up to three in a job.
        "synthesis": 2,
        "features_captions": 2,
        "features_synthetic": 4,
        "features_images": 2,
        # Of 2 seeds: tai-dpt, the two methods on images; once: both that learn nothing, and both oracles.
        "training": 6,
        "evaluation": 1,
        **GAP,
        **SUMMARY,
    }


def test_the_default_profile_is_found_without_being_named(fresh):
    assert "profiles/default" in fresh.run("--dry-run").stderr


@pytest.mark.parametrize(
    ("target", "last"), [("captions_all", "captions"), ("synthesis_all", "synthesis"), ("training_all", "training")]
)
def test_a_stage_target_stops_at_its_stage(fresh, target, last):
    planned = fresh.planned(target)
    assert last in planned
    assert "evaluation" not in planned
    assert ("training" in planned) == (last == "training")


def test_a_finished_run_shows_the_table_and_leaves_the_results(finished):
    table = (finished.results / "summary.txt").read_text()
    assert table.strip()
    assert table.strip() in (finished.root / "terminal.txt").read_text()
    summary = json.loads((finished.results / "summary.json").read_text())
    methods = {"zero-shot", "zero-shot-local", "tai-dpt", "t2i-pal-prompts", "t2i-pal", "oracle"}
    assert {row["method"] for row in summary["rows"]} == methods
    assert {(r["method"], r["seed"]) for r in summary["records"]} == {(m, s) for m in methods for s in (0, 1)}
    assert (finished.results / "report.html").stat().st_size > 1000


def test_no_half_made_file_is_left(finished):
    assert not [path for path in finished.results.rglob("*") if path.name.endswith(".part")]


def test_a_second_run_has_nothing_to_do(project):
    before = project.bytes_of("")
    assert project.planned() == {}
    assert "Nothing to be done" in project.run().stderr
    assert project.bytes_of("") == before


def test_a_changed_training_key_reruns_training_and_below_only(project):
    # The two methods that learn nothing keep their models.
    assert project.planned(overlay={"training": {"epochs": 3}}) == {"training": 5, "evaluation": 1, **GAP, **SUMMARY}


def test_a_changed_synthesis_key_leaves_captions_and_text_only_models(project):
    # t2i-pal-prompts and t2i-pal learn from the images, in one job for each seed.
    assert project.planned(overlay={"synthesis": {"steps": 3}}) == {
        "synthesis": 2,
        "features_synthetic": 4,
        "training": 2,
        "evaluation": 1,
        **GAP,
        **SUMMARY,
    }


def test_a_changed_device_reruns_nothing_but_the_table(project):
    planned = project.planned(overlay={"synthesis": {"device": "cpu"}, "features": {"device": "cpu"}})
    assert set(planned) <= set(SUMMARY)


def test_another_seed_adds_its_own_work_only(project):
    assert project.planned(overlay={"seeds": [0, 1, 2]}) == {
        "captions": 1,
        # The last job of the seeds before had room for two shards more.
        "synthesis": 1,
        "features_captions": 1,
        "features_synthetic": 2,
        "training": 3,
        "evaluation": 2,
        # All oracles share a job, which keeps those that are there; what depends on them looks again.
        "gap": 3,
        **SUMMARY,
    }


def test_another_method_trains_it_alone(project):
    methods = ["zero-shot", "zero-shot-local", "tai-dpt", "t2i-pal-prompts", "t2i-pal-global", "t2i-pal", "oracle"]
    before = project.bytes_of("training", "evaluation")
    project.run(overlay={"methods": methods})
    assert before.items() < project.bytes_of("training", "evaluation").items()
    logs = [path.read_text() for path in (project.results / "logs/training").glob("*.log")]
    trained = [[line for line in log.splitlines() if line.startswith("model ")] for log in logs]
    assert [len(lines) for lines in trained if any("t2i-pal-global" in line for line in lines)] == [1, 1]


def test_a_changed_synthesis_key_keeps_the_old_images_and_changing_back_finds_them(project):
    before = project.bytes_of(*BELOW["captions"])
    summary = (project.results / "summary.json").read_bytes()
    project.run(overlay={"synthesis": {"steps": 1}})
    after = project.bytes_of(*BELOW["captions"])
    assert before.items() < after.items()
    assert project.planned() == SUMMARY
    project.run()
    assert project.bytes_of(*BELOW["captions"]) == after
    assert (project.results / "summary.json").read_bytes() == summary


def test_a_deleted_shard_is_redone_alone_and_equal(project):
    shard = sorted(project.results.glob("synthesis/*/shard-00001.tar"))[0]
    drawn, summary = shard.read_bytes(), (project.results / "summary.json").read_bytes()
    shard.unlink()
    planned = project.planned()
    assert planned["synthesis"] == 1
    assert planned["features_synthetic"] == 1
    assert "captions" not in planned
    project.run()
    assert shard.read_bytes() == drawn
    assert (project.results / "summary.json").read_bytes() == summary


def test_a_run_killed_in_every_stage_is_mended_by_plain_reruns(project):
    summary = (project.results / "summary.json").read_bytes()
    project.forget(*BELOW["captions"])
    for name in ("summary.json", "summary.csv", "summary.txt", "report.html"):
        (project.results / name).unlink()
    delays = {stage: random.Random().uniform(0.0, 4.0) for stage in BELOW}
    for stage in BELOW:
        while not project.kill_during(stage, delays[stage]):
            project.forget(*BELOW[stage])
            delays[stage] /= 2
    project.run()
    assert (project.results / "summary.json").read_bytes() == summary, f"killed so many s into each: {delays}"
    assert project.planned() == {}


def test_permuted_test_labels_change_no_trained_file(project):
    trained = _models(project)
    summary = (project.results / "summary.json").read_bytes()
    order = random.Random(0).sample(range(60), 60)
    for part in project.results.glob("features/*-test-*/part-*.parquet"):
        table = pq.read_table(part)
        column = table.schema.get_field_index("labels")
        pq.write_table(table.set_column(column, "labels", table["labels"].take(order)), part)
    project.forget("training", "evaluation")
    project.run()
    assert _models(project) == trained
    assert (project.results / "summary.json").read_bytes() != summary


def _models(project) -> dict[str, bytes]:
    return {name: data for name, data in project.bytes_of("training").items() if "/checkpoints/" not in name}


def test_two_runs_at_once_on_the_same_results_are_refused(project):
    import fcntl

    (project.results / "summary.json").unlink()
    with (project.results / ".claim").open("ab") as claim:
        fcntl.flock(claim, fcntl.LOCK_EX)
        refused = project.snakemake()
    assert refused.returncode != 0
    assert "another run" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_snakemakes_own_report_has_the_results_with_captions_and_categories(finished, tmp_path):
    finished.run("--report", str(tmp_path / "report.zip"), "eval_all")
    with zipfile.ZipFile(tmp_path / "report.zip") as archive:
        names = archive.namelist()
        page = archive.read("report/report.html").decode()
    assert {"summary.csv", "summary.txt", "report.html"} <= {name.rpartition("/")[2] for name in names}
    assert '"Results"' in page and "Only numbers of one protocol share a table" in page
