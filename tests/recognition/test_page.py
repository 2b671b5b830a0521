"""Every command and every program of docs/recogniser.md runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "recogniser.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """The indented lines that call t2ipal, in order."""
    return [line.strip() for line in PAGE.splitlines() if line.startswith("    ") and "t2ipal " in line]


def programs() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.slow
def test_the_pages_commands_and_programs_run_one_after_the_other(model: Path, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    place = tmp_path / "place"
    shutil.copytree(model, place / "MODEL")
    shutil.copytree(photos, place / "photos")
    called = tmp_path / "bin"
    called.mkdir()
    (called / "t2ipal").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m t2ipal.cli "$@"\n')
    (called / "t2ipal").chmod(0o755)
    environment = {**os.environ, "PATH": f"{called}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}
    assert len(commands()) == 8 and len(programs()) == 2
    for what in [*commands(), *programs()]:
        given = ["sh", "-c", what] if what in commands() else [sys.executable, "-c", what]
        shown = subprocess.run(given, capture_output=True, text=True, env=environment, cwd=place, check=False)
        assert shown.returncode == 0, f"{what}\n{shown.stderr}"
    made = {path.name for path in place.iterdir()}
    assert {"found.csv", "found.jsonl", "maps", "recogniser"} <= made
    assert (place / "recogniser-onnx" / "model.onnx").is_file() and list((place / "maps").glob("*.png"))
