"""Runs the real Snakemake on config/smoke.yaml, in a directory of its own whose code is this repository's."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LINKED = ("Snakefile", "workflow", "profiles", "config.yaml", "config", "src", "envs")
# The end of a run that hangs, no bound on one that does not: with other tests beside it a run takes minutes.
RUN_SECONDS = 1800


def _environment() -> dict[str, str]:
    paths = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return {**os.environ, "PATH": os.pathsep.join(paths)}


@dataclass(frozen=True)
class Project:
    """A working directory with its own results; commands are those that a user types."""

    root: Path
    files: tuple[str, ...] = ("config/smoke.yaml",)

    def with_files(self, *files: str) -> Project:
        """The same project run with other configuration files."""
        return replace(self, files=files)

    @property
    def results(self) -> Path:
        return self.root / "results"

    @classmethod
    def at(cls, root: Path) -> Project:
        root.mkdir(parents=True)
        for name in LINKED:
            (root / name).symlink_to(ROOT / name)
        return cls(root)

    def copy(self, root: Path) -> Project:
        """An equal project with the same finished work and Snakemake's records of it."""
        shutil.copytree(self.root, root, symlinks=True, copy_function=shutil.copy2)
        return replace(self, root=root)

    def _command(self, arguments: tuple[str, ...], overlay: dict | None) -> list[str]:
        files = [*self.files]
        if overlay is not None:
            (self.root / "overlay.yaml").write_text(yaml.safe_dump(overlay))
            files.append("overlay.yaml")
        cores = [] if any(a in ("--cores", "--lint") for a in arguments) else ["--cores", "2"]
        return ["snakemake", *cores, *arguments, "--configfile", *files]

    def snakemake(self, *arguments: str, overlay: dict | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(arguments, overlay),
            cwd=self.root,
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )

    def start(self, *arguments: str, overlay: dict | None = None) -> subprocess.Popen[str]:
        """A run that goes on by itself; its output is one stream."""
        return subprocess.Popen(
            self._command(arguments, overlay),
            cwd=self.root,
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, overlay: dict | None = None) -> subprocess.CompletedProcess[str]:
        done = self.snakemake(*arguments, overlay=overlay)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def planned(self, *arguments: str, overlay: dict | None = None) -> dict[str, int]:
        """Jobs per kind of rule that a run would do now; target rules apart."""
        shown = self.run("--dry-run", *arguments, overlay=overlay)
        # A dry run shows its table of jobs before and after the jobs: the last one counts.
        table = (shown.stdout + shown.stderr).rpartition("Job stats:")[2]
        jobs = re.findall(r"^([a-z0-9_]+?)(?:_\d+)? +(\d+)$", table, flags=re.M)
        counts: Counter[str] = Counter()
        for rule, count in jobs:
            if rule != "total" and not rule.endswith("_all"):
                counts[rule] += int(count)
        return dict(counts)

    def kill_during(self, stage: str, delay: float) -> bool:
        """Start a run; SIGKILL its process group ``delay`` s after a job of ``stage`` began. False: it had ended."""
        logs = self.results / "logs" / stage
        shutil.rmtree(logs, ignore_errors=True)
        command = self._command((), None)
        with subprocess.Popen(
            command,
            cwd=self.root,
            env=_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            deadline = time.monotonic() + RUN_SECONDS
            while process.poll() is None and not any(logs.rglob("*.log")) and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(delay)
            running = process.poll() is None
            if running:
                os.killpg(process.pid, signal.SIGKILL)
        return running

    def forget(self, *stages: str) -> None:
        """Remove the work of ``stages``."""
        for stage in stages:
            shutil.rmtree(self.results / stage, ignore_errors=True)

    def bytes_of(self, *stages: str) -> dict[str, bytes]:
        """Every file of ``stages``."""
        folders = [self.results / stage for stage in stages]
        return {str(f.relative_to(self.root)): f.read_bytes() for d in folders for f in d.rglob("*") if f.is_file()}


@pytest.fixture(scope="session")
def new_project(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Project]:
    """A project that has run nothing, in a directory of that name."""
    return lambda name: Project.at(tmp_path_factory.mktemp(name) / "project")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose smoke run is done; never change it, take a copy."""
    project = Project.at(tmp_path_factory.mktemp("workflow") / "finished")
    done = project.run()
    (project.root / "terminal.txt").write_text(done.stdout)
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, to do as one likes with."""
    return finished.copy(tmp_path / "project")


@pytest.fixture
def fresh(tmp_path: Path) -> Project:
    """A project that has run nothing."""
    return Project.at(tmp_path / "fresh")
