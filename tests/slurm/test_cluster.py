"""The profile on a real SLURM: a run with faults gives what a local run gives."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
LINKED = ("Snakefile", "workflow", "profiles", "config.yaml", "config", "src", "envs")
# Shards and jobs small enough for several at once; one process decodes, as the simulated nodes are one machine.
OVERLAY = {
    "seeds": [0],
    "methods": ["zero-shot", "t2i-pal"],
    "synthesis": {"shards_per_job": 1},
    "features": {"workers": 1},
}
# The profile as a user fills it in, with looks at the queue that fit jobs of seconds.
FILLED = {"  # slurm_partition: gpu": "  slurm_partition: gpu", "  # gpu_type: a100": "  gpu_type: tiny"}
PROFILE = ("--profile", "profile", "--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "10")
# The end of a run that hangs, no bound on one that does not.
RUN_SECONDS = 1800
# So long a node is away: longer than the controller waits for it (SlurmdTimeout).
AWAY_SECONDS = 15


class Project:
    """A working directory whose code is this repository's."""

    def __init__(self, root: Path, overlay: dict) -> None:
        self.root = root
        root.mkdir()
        for name in LINKED:
            (root / name).symlink_to(ROOT / name)
        (root / "overlay.yaml").write_text(yaml.safe_dump(overlay))
        self.fill_in(FILLED)

    def fill_in(self, lines: dict[str, str]) -> None:
        """Write a profile, with these lines of the shipped one replaced."""
        text = (ROOT / "workflow" / "profiles" / "slurm" / "config.yaml").read_text()
        for line, filled in lines.items():
            assert line in text
            text = text.replace(line, filled)
        (self.root / "profile").mkdir(exist_ok=True)
        (self.root / "profile" / "config.yaml").write_text(text)

    @property
    def results(self) -> Path:
        return self.root / "results"

    def start(self, environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
        """A run that goes on by itself; what it says is in ``run.log``."""
        paths = [str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]
        with (self.root / "run.log").open("a") as log:
            return subprocess.Popen(
                ["snakemake", *arguments, "--configfile", "config/smoke.yaml", "overlay.yaml"],
                cwd=self.root,
                env={**environment, "PATH": os.pathsep.join(paths), "T2IPAL_SIMULATED_GPUS": "2"},
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def finish(self, process: subprocess.Popen[str]) -> str:
        """Wait for a run; what it said. Fails if it did."""
        code = process.wait(timeout=RUN_SECONDS)
        said = (self.root / "run.log").read_text()
        assert code == 0, said[-6000:]
        return said

    def logs(self, pattern: str) -> list[str]:
        """What the jobs have said by now. Snakemake removes the log of a job that it starts again."""
        found = []
        for log in self.results.glob(f"logs/{pattern}"):
            with suppress(FileNotFoundError):
                found.append(log.read_text(errors="replace"))
        return found

    def leases(self) -> set[tuple[str, str]]:
        """Node and index of the GPU that jobs found in ``CUDA_VISIBLE_DEVICES``, by their logs."""
        told = "\n".join(self.logs("**/*.log"))
        return {(node, index) for index, node in re.findall(r"leased simulated-(\d+) of (\S+)", told)}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project", OVERLAY)


@pytest.mark.parametrize(
    ("lines", "code", "told"),
    [
        (FILLED, 0, "ok    GPU         tiny"),
        ({"  # slurm_partition: gpu": "  slurm_partition: cpu"}, 1, "there is no partition cpu"),
        ({"  # gpu_type: a100": "  gpu_type: a100"}, 1, "no node of the partition has GPUs of type a100"),
        ({"  # slurm_account: my-project": "  slurm_account: me"}, 1, "the cluster keeps no accounts"),
        ({"  max_runtime: 1440": "  max_runtime: 2880"}, 1, "longer jobs would never start"),
        ({"  max_mem_mb: 60000": "  max_mem_mb: 90000"}, 1, "larger jobs would be refused"),
        ({"slurm-status-command: squeue": "slurm-status-command: sacct"}, 1, "there is no accounting"),
    ],
)
def test_the_doctor_knows_the_cluster_and_what_the_profile_lacks(
    cluster, project: Project, lines: dict[str, str], code: int, told: str
) -> None:
    project.fill_in(lines)
    command = [sys.executable, "-m", "t2ipal.cli", "doctor", "--slurm", "--profile", "profile"]
    done = subprocess.run(
        command, cwd=project.root, env=cluster.environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, told in done.stdout) == (code, True), done.stdout + done.stderr


def gpus_of(jobs: list[dict[str, str]]) -> list[tuple[str, str]]:
    """Node and index of every GPU that SLURM gave to running jobs."""
    held = []
    for job in jobs:
        indices = re.search(r"gpu[^(]*\(IDX:(\d+)\)", job.get("GRES", ""))
        if job["JobState"] == "RUNNING" and indices:
            held.append((job["NodeList"], indices[1]))
    return held


def test_a_node_that_dies_and_a_job_that_is_cancelled_leave_the_summary_of_a_local_run(
    cluster, project: Project, tmp_path: Path
) -> None:
    local = Project(tmp_path / "local", OVERLAY)
    # Beside the cluster's, which waits more than it computes.
    alone = local.start(dict(os.environ), "--cores", "1", "results/summary.json")
    leases: set[tuple[str, str]] = set()
    dead = cancelled = dead_since = None
    with project.start(cluster.environment, *PROFILE, "eval_all") as process:
        try:
            while process.poll() is None:
                leases |= project.leases()
                held = gpus_of(cluster.jobs())
                assert len(held) == len(set(held)), "two jobs have the same GPU"
                drawing = cluster.running("synthesis")
                others = [job for job in cluster.running("features", "training") if job["RunTime"] >= "00:00:03"]
                if dead is None and drawing and len(leases) > 2:
                    dead, dead_since = drawing[0], time.monotonic()
                    cluster.switch_off(dead["NodeList"])
                elif cancelled is None and others:
                    cancelled = others[0]
                    cluster.ask("scancel", cancelled["JobId"])
                elif dead_since is not None and time.monotonic() - dead_since > AWAY_SECONDS:
                    cluster.switch_on(dead["NodeList"])
                    dead_since = None
                time.sleep(0.5)
            said = project.finish(process)
        finally:
            process.terminate()
    assert dead is not None and cancelled is not None, said[-3000:]
    again = {job["JobId"]: job for job in cluster.jobs()}[dead["JobId"]]
    assert int(again["Restarts"]) >= 1 and again["JobState"] == "COMPLETED"
    assert f"SLURM-job '{cancelled['JobId']}' failed, SLURM status is: 'CANCELLED'" in said
    assert "tiny:1" in dead["TresPerJob"] and dead["Partition"] == "gpu"
    assert {node for node, _ in leases} == {"node1", "node2"}
    assert {index for _, index in leases} == {"0", "1"}

    local.finish(alone)
    assert (project.results / "summary.json").read_bytes() == (local.results / "summary.json").read_bytes()


def end(process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Wait for the end of a process that was told to end; one that does not is killed, and the test fails."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


# Many minutes of work on one shard, more than the limit below leaves on any machine: 960 images, two at a time, as a
# batch must end within the notice also where everything takes five times as long.
SLOW = {
    "seeds": [0],
    "methods": ["t2i-pal"],
    "captions": {"total": 960},
    "synthesis": {"steps": 100, "batch_size": 2, "shard_size": 960},
}
# Three minutes for each attempt, and a third of it notice; SLURM may give half a minute more. What is left before it,
# a minute and a half, must do for the start of a job, and for that of a run that is to find the job in the queue.
SHORT = ("--default-resources", "mem_mb=2000", "runtime=3", "max_runtime=3", "slurm_extra='--signal=TERM@60'")
KEPT = re.compile(r"kept (\d+) of 960 images of an earlier run")


def watch(project: Project, process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait until a job goes on with an earlier one's images: how many, and all that the jobs said on the way."""
    told: set[str] = set()
    while process.poll() is None:
        told |= {line for log in project.logs("synthesis/*.log") for line in log.splitlines()}
        kept = [int(found) for found in KEPT.findall("\n".join(told))]
        if kept:
            return max(kept), "\n".join(told)
        time.sleep(0.2)
    raise AssertionError((project.root / "run.log").read_text()[-4000:])


def test_a_job_at_its_limit_and_a_killed_main_process_are_taken_up_where_they_were(cluster, tmp_path: Path) -> None:
    project = Project(tmp_path / "project", SLOW)
    command = ("synthesis_all", *PROFILE, *SHORT)

    def queue_is_empty() -> bool:
        deadline = time.monotonic() + 180
        while cluster.ask("squeue", "--noheader").stdout and time.monotonic() < deadline:
            time.sleep(0.2)
        return not cluster.ask("squeue", "--noheader").stdout

    with project.start(cluster.environment, *command) as process:
        try:
            first, told = watch(project, process)
        finally:
            process.kill()
    assert first > 0 and "was asked to stop" in told
    assert "Trying to restart job" in (project.root / "run.log").read_text()

    (project.root / "run.log").unlink()
    refused = project.start(cluster.environment, *command)
    assert refused.wait(timeout=120) != 0
    said = (project.root / "run.log").read_text()
    cancel = re.search(r"still in the queue; cancel them with `(scancel --name=t2ipal_[0-9a-f-]+)`", said)
    assert cancel, said
    cluster.ask(*cancel[1].split())
    assert queue_is_empty()

    for log in project.results.glob("logs/synthesis/*.log"):
        log.unlink()
    with project.start(cluster.environment, "synthesis_all", *PROFILE) as process:
        try:
            second, _ = watch(project, process)
        finally:
            process.send_signal(signal.SIGINT)
            end(process)
    assert second >= first
    assert queue_is_empty()
