from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from t2ipal import cli
from t2ipal.config import Config
from t2ipal.errors import UserError

COMMANDS = [
    "predict",
    "export",
    "captions",
    "labels",
    "synthesis",
    "verification",
    "features",
    "training",
    "evaluation",
    "gap",
    "summary",
    "report",
    "pack",
    "config",
]
HEAVY = ["torch", "diffusers", "transformers", "open_clip", "pyarrow", "sklearn", "pandas", "matplotlib", "snakemake"]
# By these rich colours, or breaks, what is written to no terminal; GitHub sets one of them for every job.
TERMINAL = {"FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TTY_COMPATIBLE", "TERMINAL_WIDTH"}


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in TERMINAL}
    command = [sys.executable, "-m", "t2ipal.cli", *arguments]
    return subprocess.run(command, env={**kept, "COLUMNS": "80"}, capture_output=True, text=True, check=False)


def test_help_lists_every_stage():
    shown = _run("--help")
    assert shown.returncode == 0
    assert all(command in shown.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str):
    assert _run(command, "--help").returncode == 0


def test_the_command_line_starts_without_heavy_imports():
    code = f"import sys, t2ipal.cli; print([name for name in {HEAVY} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_asking_snakefiles_questions_needs_no_heavy_imports():
    code = f"import sys, t2ipal.experiments, t2ipal.preflight; print([name for name in {HEAVY} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["captions", "--settings", "{", "--output", "x.parquet"], "--settings"),
        (["captions", "--settings", "[1]", "--output", "x.parquet"], "--settings"),
        (["summary", "--config-json", '{"seedz": [1]}', "--output", "s.json"], "seeds"),
        (["report", "--config-json", '{"training": {"epochs": 0}}', "--output", "r.html"], "training.epochs"),
        (
            ["features", "--settings", "{}", "--part", "0", "--output", "p", "--captions", "c", "--shard-file", "s"],
            "exc",
        ),
        (["config", "show", "missing.yaml"], "missing.yaml"),
        (["training", "--jobs", "[{]"], "--jobs is not valid JSON"),
        (["training", "--jobs", '{"settings": {}}'], "--jobs must be a JSON list"),
        (["evaluation", "--jobs", "null", "part.parquet"], "--jobs must be a JSON list"),
        (["evaluation", "--jobs", '[], "more": 1', "part.parquet"], "--jobs"),
        (["summary", "--config-json", "{}", "--experiment", "no", "--output", "s.json"], "there is no experiment 'no'"),
    ],
)
def test_a_users_error_is_one_sentence_on_stderr_and_exit_code_one(arguments: list[str], named: str, tmp_path: Path):
    shown = _run(*arguments)
    assert shown.returncode == 1
    assert shown.stdout == ""
    assert shown.stderr.startswith("t2ipal: error: ")
    assert shown.stderr.count("\n") == 1
    assert named in shown.stderr


@pytest.mark.parametrize("position", [0, 5])
def test_debug_shows_the_traceback_before_or_behind_the_command(position: int):
    arguments = ["captions", "--settings", "{", "--output", "x.parquet"]
    arguments.insert(position, "--debug")
    shown = _run(*arguments)
    assert shown.returncode != 0
    assert "Traceback" in shown.stderr


def test_an_interrupt_ends_without_traceback(monkeypatch, capsys):
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    with pytest.raises(SystemExit) as caught:
        cli.main(["captions"])
    assert caught.value.code == 130
    assert capsys.readouterr().err == "t2ipal: interrupted\n"


def test_config_show_completes_a_file_with_the_defaults(tmp_path: Path, capsys):
    (tmp_path / "mine.yaml").write_text("seeds: [7]\n")
    with pytest.raises(SystemExit) as caught:
        cli.main(["config", "show", str(tmp_path / "mine.yaml")])
    assert caught.value.code == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown == {**json.loads(Config().model_dump_json()), "seeds": [7]}


def test_features_go_to_the_extractor_of_their_input(monkeypatch, tmp_path: Path):
    stage = pytest.importorskip("t2ipal.features.stage")
    called: list[tuple[str, tuple[object, ...], dict[str, object]]] = []
    for name in ("extract_captions", "extract_shard", "extract_images"):
        monkeypatch.setattr(stage, name, lambda *args, name=name, **more: called.append((name, args, more)))
    common = ["features", "--settings", '{"a":1}', "--part", "00012", "--output", "p.parquet", "--device", "cpu"]
    listed = ["--index", "i.parquet", "--missing", "0.1", "--workers", "3"]
    for extra in ([], listed, ["--captions", "c"], ["--shard-file", "s"]):
        with pytest.raises(SystemExit):
            cli.main([*common, *extra])
    output = Path("p.parquet")
    assert called == [
        ("extract_images", ({"a": 1}, 12, output, "cpu"), {"index": None, "workers": None, "missing": 0.0}),
        (
            "extract_images",
            ({"a": 1}, 12, output, "cpu"),
            {"index": Path("i.parquet"), "workers": 3, "missing": 0.1},
        ),
        ("extract_captions", ({"a": 1}, Path("c"), 12, output, "cpu"), {}),
        ("extract_shard", ({"a": 1}, Path("s"), output, "cpu"), {"workers": None}),
    ]


def test_a_shard_is_verified_on_the_device_that_is_named(monkeypatch):
    stage = pytest.importorskip("t2ipal.verification.stage")
    called: list[tuple[object, ...]] = []
    monkeypatch.setattr(stage, "verify_shard", lambda *args: called.append(args))
    with pytest.raises(SystemExit) as caught:
        cli.main(["verification", "--settings", '{"a":1}', "--shard-file", "s.tar", "--device", "cpu", "--output", "p"])
    assert caught.value.code == 0
    assert called == [({"a": 1}, Path("s.tar"), Path("p"), "cpu")]


def test_debug_lets_the_error_through(monkeypatch):
    def failing(*args: object, **kwargs: object) -> None:
        raise UserError("no")

    monkeypatch.setattr(cli, "app", failing)
    with pytest.raises(UserError):
        cli.main(["captions", "--debug"])


def test_trainings_and_evaluations_go_to_their_stages_all_at_once(monkeypatch):
    from t2ipal.evaluation import stage as evaluation
    from t2ipal.learning import stage as training
    from t2ipal.learning.workroom import FeatureSet

    called: list[tuple[object, ...]] = []
    monkeypatch.setattr(training, "train", lambda *args: called.append(args))
    monkeypatch.setattr(evaluation, "evaluate_all", lambda *args: called.append(args))
    model = {
        "settings": {"seed": 1},
        "output": "t/model.json",
        "features": {"captions": ["f", ["0"]]},
        "members": ["m"],
    }
    scores = {"settings": {"benchmark": {}}, "fingerprint": "f", "model": "t", "output": "e/metrics.json"}
    for command, job, more in (("training", model, ["--device", "cpu"]), ("evaluation", scores, ["a", "b"])):
        with pytest.raises(SystemExit) as caught:
            cli.main([command, "--jobs", json.dumps([job, job]), *more])
        assert caught.value.code == 0
    (trained, device), (evaluated, parts) = called
    assert device == "cpu" and parts == [Path("a"), Path("b")]
    features = {"captions": FeatureSet(Path("f"), ("0",))}
    assert trained == [training.Job({"seed": 1}, Path("t/model.json"), features, (Path("m"),))] * 2
    assert evaluated == [evaluation.Job({"benchmark": {}}, "f", Path("t"), Path("e/metrics.json"))] * 2


def test_captions_explain_shows_which_words_cause_which_label():
    shown = _run("captions", "explain", "A hot dog beside two puppies", "--labels", "coco")
    assert shown.returncode == 0
    assert [line.split() for line in shown.stdout.splitlines()] == [
        ["A", "hot", "dog", "beside", "two", "puppies"],
        ["2-9", "hot", "dog", "hot", "dog", "classes.hot", "dog:", "hot", "dog"],
        ["21-28", "puppies", "dog", "classes.dog.synonyms:", "puppies", "(plural", "of", "'puppy')"],
        ["labels:", "dog,", "hot", "dog"],
    ]


def test_captions_without_settings_say_what_is_missing():
    shown = _run("captions", "--output", "x.parquet")
    assert shown.returncode == 2
    assert "--settings" in shown.stderr


def test_labels_prints_every_phrase_and_whether_it_is_derived(tmp_path: Path):
    (tmp_path / "own.yaml").write_text("classes: [grey wolf]\n", encoding="utf-8")
    shown = _run("labels", str(tmp_path / "own.yaml"))
    assert shown.returncode == 0
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert "grey wolf stated name" in lines
    assert "grey wolves derived name: plural of 'grey wolf'" in lines
    assert "gray wolf derived name: other spelling of 'grey wolf'" in lines


def test_labels_without_a_name_lists_the_shipped_ones():
    assert _run("labels").stdout.split() == ["coco", "nuswide", "voc2007"]


def test_labels_of_an_unknown_label_set_are_refused_in_one_sentence():
    shown = _run("labels", "voc2008")
    assert shown.returncode == 1
    assert "no label set 'voc2008'" in shown.stderr


def test_the_shell_completes_commands_and_options():
    for words, wanted in (("t2ipal sta", "status"), ("t2ipal status --exp", "--experiment")):
        place = str(len(words.split()) - 1)
        environment = {**os.environ, "_T2IPAL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": place}
        code = "from t2ipal.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert wanted in done.stdout.split()


def test_the_help_page_says_what_it_is_and_how_one_begins():
    said = _run("--help").stdout
    for words in ("without one labelled image", "snakemake --cores 4 eval_all", "t2ipal init", "--install-completion"):
        assert words in said
