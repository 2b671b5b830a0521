"""Jobs of killed runs; a real queue is asked in tests/slurm."""

from pathlib import Path

import pytest

from t2ipal.errors import UserError
from t2ipal.leftovers import left_behind, refuse_left_behind


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the command squeue prints."""
    listing = tmp_path / "listing"
    command = tmp_path / "squeue"
    command.write_text(f"#!/bin/sh\nexec cat {listing}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return listing


def test_jobs_of_this_directory_and_prefix_are_refused_with_the_command_that_cancels_them(queue: Path) -> None:
    queue.write_text("t2ipal_a-1|/here\nt2ipal_a-1|/here\nt2ipal_b-2|/there\nother|/here\nt2ipalx|/here\n")
    assert left_behind("t2ipal", Path("/here")) == {"t2ipal_a-1": 2}
    with pytest.raises(UserError, match=r"2 jobs of a run that was killed .* `scancel --name=t2ipal_a-1`"):
        refuse_left_behind("t2ipal", Path("/here"))


def test_an_empty_queue_and_none_at_all_are_fine(queue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.write_text("")
    refuse_left_behind("t2ipal", Path("/here"))
    monkeypatch.setenv("PATH", "/nowhere")
    assert left_behind("t2ipal", Path("/here")) == {}
