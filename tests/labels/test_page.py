"""docs/labels.md shows commands, files and answers that are so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from t2ipal import cli
from t2ipal.labels import LabelSet

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "labels.md").read_text(encoding="utf-8")
COMMANDS = [
    line.partition(" #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]
FILES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_works(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, *arguments = shlex.split(command)
    assert program == "t2ipal"
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 0
    assert capsys.readouterr().out.strip()


def test_the_answer_that_is_shown_is_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    (shown,) = re.findall(r"```\n(A hot dog.*?)```", PAGE, re.DOTALL)
    with pytest.raises(SystemExit):
        cli.main(shlex.split(COMMANDS[-1])[1:])
    assert capsys.readouterr().out.rstrip("\n") == shown.rstrip("\n")


@pytest.mark.parametrize("text", FILES)
def test_every_file_loads(text: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(text, encoding="utf-8")
    assert LabelSet.load(tmp_path / "own.yaml").names
    assert len(FILES) == 2


def test_the_words_that_are_said_to_be_derived_are(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(FILES[0], encoding="utf-8")
    phrases = {entry.phrase for entry in LabelSet.load(tmp_path / "own.yaml").entries()}
    assert {"fire engines", "gray wolf", "fireengine"} <= phrases
