"""The README's two commands, in a fresh clone with an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is committed, and nothing else."""
    directory = tmp_path_factory.mktemp("readme") / "t2ipal"
    if subprocess.run(["git", "clone", "-q", str(ROOT), str(directory)], check=False).returncode:
        pytest.skip("this is no git repository")
    return directory


def _make(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # As a new user's shell is, without what the environment of these tests has set.
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        ["make", *arguments], cwd=clone, env=kept, capture_output=True, text=True, check=False, timeout=1500
    )


def test_the_first_command_sets_up_and_ends_with_the_table(clone: Path):
    assert "    make eval " in (clone / "README.md").read_text()
    # At its smallest, as the real one takes its time: the same environment and the same DAG.
    done = _make(clone, "eval", "ARGS=--configfile config/smoke.yaml --")
    assert done.returncode == 0, done.stdout + done.stderr
    table = (clone / "results" / "summary.txt").read_text()
    assert table.strip() in done.stdout and "t2i-pal" in table
    assert (clone / "results" / "report.html").is_file()
    assert json.loads((clone / "results" / "summary.json").read_text())["rows"]
    assert (clone / ".venv" / "bin" / "t2ipal").is_file()
    unknown = subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True)
    assert unknown.stdout == ""


def test_the_second_command_runs_lint_and_all_tests(clone: Path):
    assert "    make test " in (clone / "README.md").read_text()
    said = _make(clone, "-n", "test").stdout
    for words in ("ruff check", "mypy", "snakemake --lint", "pytest tests/workflow", "pytest --ignore=tests/workflow"):
        assert words in said
