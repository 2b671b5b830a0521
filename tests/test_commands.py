"""Every command that a page shows: those of Snakemake are planned, those of t2ipal are parsed, the others exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
from PIL import Image

from t2ipal import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "config" / "README.md", *(ROOT / "docs").glob("*.md")]
LINKED = ("Snakefile", "workflow", "profiles", "config.yaml", "config", "src", "envs")
FENCED = re.compile(r"^```(?:sh|bash|console|text)?\n(.*?)^```", flags=re.M | re.S)
INDENTED = re.compile(r"^    (?! )((?:\\\n|[^\n])*)$", flags=re.M)
# Snakemake takes all that follows --configfile and --config for theirs, up to the next option or --.
SWALLOWED = re.compile(r"--config(?:file)? (?:[^\s`]+ )*?(?:[^\s`]+(?:\.yaml|=\S+) )(?!-)(?!\S*(?:\.yaml|=))[a-z_]+")


def _lines(page: Path) -> Iterator[str]:
    text = page.read_text(encoding="utf-8")
    for block in [*FENCED.findall(text), *INDENTED.findall(FENCED.sub("", text))]:
        for line in block.replace("\\\n", " ").splitlines():
            yield line.strip().removeprefix("$ ")


def _commands(*programs: str) -> list[tuple[str, str]]:
    """(page, command) of all lines that begin with one of these programs."""
    found = {(page.name, line) for page in PAGES for line in _lines(page) if line.split(" ")[0] in programs}
    return sorted(found)


def _words(line: str) -> list[str]:
    home = str(ROOT)
    for name in ("~/t2ipal", "$HOME/t2ipal"):
        line = line.replace(name, home)
    return [word for word in shlex.split(line, comments=True) if word != "…"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout as a directory of its own, with the files that pages let their reader write."""
    root = tmp_path_factory.mktemp("commands") / "project"
    root.mkdir()
    for name in LINKED:
        (root / name).symlink_to(ROOT / name)
    (root / "mine.yaml").write_text("training: {epochs: 30}\n")
    (root / "labels.yaml").write_text("classes: [fox, badger, hedgehog]\n")
    (root / "photos").mkdir()
    Image.new("RGB", (32, 32)).save(root / "photos" / "a.jpg")
    return root


def _ids(case: tuple[str, str]) -> str:
    return " ".join(case)[:80]


@pytest.mark.slow
@pytest.mark.parametrize("case", _commands("snakemake"), ids=_ids)
def test_a_command_of_snakemake_plans_its_run(case: tuple[str, str], project: Path):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    command = ["snakemake", "--dry-run", *_words(case[1])[1:]]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", _commands("t2ipal"), ids=_ids)
def test_a_command_of_t2ipal_has_these_arguments_and_options(case: tuple[str, str]):
    command: click.Command = typer.main.get_command(cli.app)
    words = [word for word in _words(case[1])[1:] if word != "--debug"]
    context = None
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        context = click.Context(command, info_name=words[0], parent=context)
        command, words = command.commands[words[0]], words[1:]
    with command.make_context("t2ipal", words, parent=context):
        pass


# Those that neither compute for long nor need a network, a GPU, a cluster or a model of their own; the pages of labels
# and of the recogniser have tests that run theirs.
RUN = ("init", "plan", "status", "doctor", "config", "labels", "captions")


def _cheap() -> list[tuple[str, str]]:
    found = [case for case in _commands("t2ipal") if _words(case[1])[1] in RUN]
    return [case for case in found if "--slurm" not in case[1] and " > " not in case[1]]


@pytest.mark.slow
@pytest.mark.parametrize("case", _cheap(), ids=_ids)
def test_a_command_of_t2ipal_that_costs_little_runs(case: tuple[str, str], project: Path, tmp_path: Path):
    words = [word.replace("~", str(tmp_path)) for word in _words(case[1])[1:]]
    command = [sys.executable, "-m", "t2ipal.cli", *words]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.strip(), done.stdout + done.stderr


@pytest.mark.parametrize("case", _commands("make"), ids=_ids)
def test_a_command_of_make_has_its_target(case: tuple[str, str]):
    done = subprocess.run(["make", "-n", *_words(case[1])[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("case", _commands("python"), ids=_ids)
def test_a_program_that_python_runs_is_there(case: tuple[str, str]):
    words = _words(case[1])
    if words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file()
    else:
        assert words[1] in ("-c", "-m")
        if words[1] == "-c":
            compile(words[2], case[0], "exec")


def test_the_two_commands_of_the_readme_are_among_them():
    shown = {_words(line)[1] for page, line in _commands("make") if page == "README.md"}
    assert {"eval", "test"} <= shown
    assert any(page == "README.md" for page, _ in _commands("snakemake"))


def test_no_target_is_swallowed_by_an_option_before_it():
    files = [*PAGES, *(ROOT / "config").glob("*.yaml"), ROOT / "config.yaml", *(ROOT / "src" / "t2ipal").glob("*.py")]
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not SWALLOWED.search(text), f"{path.name}: {SWALLOWED.search(text)}"
    assert SWALLOWED.search("snakemake --configfile a.yaml eval_all")
    assert not SWALLOWED.search("snakemake --configfile a.yaml b.yaml -- eval_all")
