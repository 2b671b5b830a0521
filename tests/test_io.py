from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from t2ipal.io import swept_path

WRITER = """
import sys
from pathlib import Path
from t2ipal.io import swept_path

with swept_path(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    print("written", flush=True)
    sys.stdin.readline()
    partial.write_text("whole")
"""


def _writer(final: Path) -> subprocess.Popen[str]:
    """A process that has written half of the file, and writes the rest when it reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(final)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "written\n"
    return process


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    final = tmp_path / "part [1].parquet"
    with _writer(final) as process:
        process.kill()
    assert process.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.read_text() == "half"
    (tmp_path / ".other.1.part").touch()
    with swept_path(final) as partial:
        partial.write_text("whole")
        assert sorted(tmp_path.iterdir()) == sorted([partial, tmp_path / ".other.1.part"])
    assert final.read_text() == "whole"
    assert sorted(tmp_path.iterdir()) == sorted([final, tmp_path / ".other.1.part"])


def test_what_another_process_is_writing_stays(tmp_path: Path) -> None:
    final = tmp_path / "part.parquet"
    with _writer(final) as process:
        with swept_path(final) as partial:
            partial.write_text("mine")
            assert len(list(tmp_path.iterdir())) == 2
        assert final.read_text() == "mine"
        process.communicate("\n")
    assert process.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["part.parquet"]
    assert final.read_text() == "whole"


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), swept_path(tmp_path / "part") as partial:
        partial.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
