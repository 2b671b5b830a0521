"""Images under the real Snakemake: more of them, many GPUs, jobs that are stopped, disks that are full."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FEW = {"seeds": [0], "methods": ["t2i-pal"]}
# The end of a run that hangs, no bound on one that does not.
RUN_SECONDS = 900


def test_more_captions_and_replicas_draw_only_what_is_new_and_going_back_finds_everything(project):
    summary = (project.results / "summary.json").read_bytes()
    before = project.bytes_of("synthesis")
    wider = {"captions": {"total": 50}, "synthesis": {"images_per_caption": 2}}
    planned = project.planned("features_all", overlay=wider)
    # Each seed has 2 shards of 20; now 2 and a tail of 10, and the same for the second replica.
    assert planned["features_synthetic"] == 2 * 4
    for log in project.results.glob("logs/synthesis/*.log"):
        log.unlink()
    project.run("synthesis_all", overlay=wider)
    after = project.bytes_of("synthesis")
    assert before.items() < after.items()
    logs = "".join(path.read_text() for path in project.results.glob("logs/synthesis/*.log"))
    assert logs.count("is finished: kept") == 4
    assert len(re.findall(r"shard \S+: (\d+) of \1 images", logs)) == 2 * 4
    assert "synthesis" not in project.planned()
    project.run()
    assert (project.results / "summary.json").read_bytes() == summary


def test_jobs_on_a_machine_of_four_gpus_run_at_once_each_on_its_own(fresh, monkeypatch, tmp_path):
    monkeypatch.setenv("T2IPAL_SIMULATED_GPUS", "4")
    # Leases lie in the temporary directory, where a test beside this one may hold simulated GPUs of the same names.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    overlay = {"synthesis": {"shards_per_job": 1}}
    # With all captions there, no job has ended, and freed its GPU, before the last one begins.
    fresh.run("captions_all", overlay=overlay)
    fresh.run("synthesis_all", "--cores", "8", overlay=overlay)
    logs = [path.read_text() for path in fresh.results.glob("logs/synthesis/*.log")]
    leased = sorted(found for log in logs for found in re.findall(r"leased (simulated-\d)", log))
    assert leased == [f"simulated-{index}" for index in range(4)]
    assert not any("waiting" in log for log in logs)


def test_a_job_that_is_asked_to_stop_is_taken_up_by_snakemake(fresh):
    overlay = {**FEW, "synthesis": {"steps": 40, "batch_size": 5, "shards_per_job": 2}}
    with fresh.start("synthesis_all", overlay=overlay) as process:
        deadline = time.monotonic() + RUN_SECONDS
        part = None
        while part is None and time.monotonic() < deadline:
            part = next((p for p in fresh.results.glob("synthesis/*/*.tar.part") if p.stat().st_size), None)
            time.sleep(0.02)
        (job,) = _jobs(fresh)
        os.kill(job, signal.SIGTERM)
        output = process.communicate(timeout=RUN_SECONDS)[0]
    assert process.returncode == 0, output
    assert "Trying to restart job" in output
    assert "was asked to stop" in output
    (log,) = fresh.results.glob("logs/synthesis/*.log")
    assert "images of an earlier run" in log.read_text() or "is finished: kept" in log.read_text()
    assert len(list(fresh.results.glob("synthesis/*/shard-*.tar"))) == 2


def _jobs(project) -> list[int]:
    """The processes that draw images for this project; not the shells around them."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            if b"synthesis" in command and (folder / "cwd").resolve() == project.root.resolve():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def test_a_plan_that_the_disk_cannot_hold_is_refused_and_a_full_disk_loses_no_image(fresh, tmpfs):
    small_disk = tmpfs(300)
    overlay = {**FEW, "results": str(small_disk)}
    refused = fresh.snakemake("synthesis_all", overlay=overlay)
    assert refused.returncode != 0
    told = "40 images to draw take about 0.0 GiB, but the disk of results directory"
    assert told in refused.stdout + refused.stderr
    assert not list(small_disk.glob("synthesis/*/*"))


def test_two_runs_in_one_directory_are_refused(fresh):
    with fresh.start("synthesis_all", overlay=FEW) as first:
        # The log of a job is there: what claims the directory comes before the first job.
        while first.poll() is None and not any((fresh.results / "logs").rglob("*.log")):
            time.sleep(0.05)
        # So that it still holds the directory when the second one asks, however long that takes to start.
        first.send_signal(signal.SIGSTOP)
        try:
            second = fresh.snakemake("synthesis_all", overlay=FEW)
        finally:
            first.send_signal(signal.SIGCONT)
        assert second.returncode != 0
        assert "another run is writing to results directory" in second.stdout + second.stderr
        first.communicate(timeout=RUN_SECONDS)
    assert first.returncode == 0


def test_parts_of_features_in_larger_jobs_are_the_same_files(project):
    overlay = {"features": {"parts_per_job": 2}}
    assert not {"features_synthetic", "training", "evaluation"} & set(project.planned(overlay=overlay))
    lost, kept = sorted(project.results.glob("features/openmoji-synthetic-s0-*/part-*.parquet"))
    before, size = kept.read_bytes(), lost.stat().st_size
    lost.unlink()
    assert project.planned("features_all", overlay=overlay) == {"features_synthetic": 1}
    project.run("features_all", overlay=overlay)
    assert kept.read_bytes() == before  # the seconds that it took are in it
    assert abs(lost.stat().st_size - size) < 100
