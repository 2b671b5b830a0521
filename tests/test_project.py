from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from t2ipal import cli
from t2ipal.config import load
from t2ipal.errors import UserError
from t2ipal.labels import LabelSet
from t2ipal.project import create, parsed_labels


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("fox,badger", ["fox", "badger"]),
        (' fox , "badger, old",', ["fox", "badger, old"]),
        ("hedgehog 🦔,d'or", ["hedgehog 🦔", "d'or"]),
        ('"say ""hi""",x', ['say "hi"', "x"]),
    ],
)
def test_labels_are_one_line_of_csv(text: str, labels: list[str]):
    assert parsed_labels(text) == labels


@pytest.mark.parametrize(("text", "said"), [("", "no label"), (" , ", "no label"), ("a,b,a", "'a' twice")])
def test_labels_that_are_none_or_twice_are_refused(text: str, said: str):
    with pytest.raises(UserError, match=said):
        parsed_labels(text)


def test_a_project_has_labels_and_a_configuration_of_its_own(tmp_path: Path):
    labels = ["fox", "badger, old", "hedgehog 🦔", 'say "hi"']
    create(tmp_path / "zoo", labels)
    assert LabelSet.load(str(tmp_path / "zoo" / "labels.yaml")).names == tuple(labels)
    config = load(tmp_path / "zoo" / "config.yaml")
    assert (config.benchmark.name, config.benchmark.path, config.benchmark.labels) == ("own", "photos", "labels.yaml")
    assert Path(config.synthesis.model.removeprefix("local-dir:")).is_dir()
    assert "hedgehog 🦔" in (tmp_path / "zoo" / "README.md").read_text(encoding="utf-8")


def test_three_hundred_classes_make_a_project(tmp_path: Path):
    labels = [f"species {chr(97 + n // 26 % 26)}{chr(97 + n % 26)}{n}" for n in range(300)]
    create(tmp_path, labels)
    assert LabelSet.load(str(tmp_path / "labels.yaml")).names == tuple(labels)


@pytest.mark.parametrize("content", ["file", "folder"])
def test_what_is_there_is_not_written_over(tmp_path: Path, content: str):
    (tmp_path / "zoo").mkdir() if content == "folder" else (tmp_path / "zoo").write_text("")
    if content == "folder":
        (tmp_path / "zoo" / "mine").write_text("")
    with pytest.raises(UserError, match="is there and not empty"):
        create(tmp_path / "zoo", ["fox"])


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the project"):
        create(tmp_path / "file" / "zoo", ["fox"])


@pytest.mark.slow
def test_a_new_project_plans_its_run_and_tells_its_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        cli.main(["init", str(tmp_path / "zoo"), "--labels", "fox,badger"])
    assert caught.value.code == 0 and "snakemake --cores 4" in capsys.readouterr().out
    (tmp_path / "zoo" / "photos" / "a.jpg").write_bytes(b"")

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=tmp_path / "zoo", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    planned = run("snakemake", "--cores", "4", "--dry-run")
    assert "profiles/default" in planned and "evaluation_" in planned and "index" in planned
    said = run("t2ipal.cli", "status")
    assert "0 of 1" in said and "the next run makes what is missing" in said


def test_a_project_follows_the_shipped_settings_for_own_labels(tmp_path: Path):
    create(tmp_path, ["fox"])
    shipped = yaml.safe_load((Path(__file__).resolve().parents[1] / "config" / "own-labels.yaml").read_text())
    written = yaml.safe_load((tmp_path / "config.yaml").read_text())
    for section in ("features", "training", "prompts"):
        assert shipped[section].items() <= written[section].items()
