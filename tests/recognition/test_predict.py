"""``t2ipal predict``, as it is called."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.recognition.conftest import LABELS, MakeModel

from t2ipal import cli
from t2ipal.evaluation import predictions

ROOT = Path(__file__).resolve().parents[2]
Called = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Called:
    """Runs a command in this process: exit code, standard output, standard error."""

    def called(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        shown = capfd.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return called


def _table(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


def test_lines_for_people_name_what_was_found(call: Called, model: Path, photos: Path) -> None:
    code, out, err = call("predict", model, photos, "--device", "cpu")
    lines = [line.split("\t") for line in out.splitlines()]
    assert code == 0 and len(lines) == 7
    assert {name for name, _ in lines} == {str(path) for path in photos.rglob("*.*")}
    assert all(said == "none of the classes" or any(label in said for label in LABELS) for _, said in lines)
    assert "recognised: 7 of 7 images" in err


def test_json_lines_hold_everything(call: Called, model: Path, photos: Path) -> None:
    code, out, _ = call("predict", model, photos / "a.png", photos / "f 🦊.png", "--json", "--device", "cpu")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [record["image"] for record in records] == [str(photos / "a.png"), str(photos / "f 🦊.png")]
    for record in records:
        assert tuple(record["scores"]) == tuple(record["probabilities"]) == LABELS
        assert all(0 <= value <= 1 for value in record["probabilities"].values())
        assert set(record["labels"]) <= set(LABELS)


def test_the_table_is_that_of_the_evaluation_stage(call: Called, model: Path, photos: Path, tmp_path: Path) -> None:
    code, out, _ = call("predict", model, photos, "--csv", "--device", "cpu")
    head, *rows = _table(out)
    assert code == 0 and head == [*predictions.header(LABELS, True), "unreadable"]
    assert head[-2] == "'=1+1" and head[4] == 'a "quoted", one'
    assert all(len(row) == len(head) and row[-1] == "" for row in rows) and len(rows) == 7


def test_a_name_is_no_formula(call: Called, model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    code, out, _ = call("predict", model, '=g "x",y.png', "--csv", "--device", "cpu")
    assert code == 0 and _table(out)[1][0] == '\'=g "x",y.png'


def test_a_file_is_written_whole_or_not_at_all(call: Called, model: Path, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "p.csv"
    assert call("predict", model, photos, "--csv", "--output", output, "--device", "cpu")[:2] == (0, "")
    assert len(_table(output.read_text(encoding="utf-8"))) == 8
    output.unlink()
    (tmp_path / "empty").mkdir()
    assert call("predict", model, photos, tmp_path / "empty", "--csv", "--output", output, "--device", "cpu")[0] == 1
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize("kind", ["--json", "--csv", None])
def test_an_unreadable_image_is_in_the_result_and_ends_with_an_error(
    call: Called, model: Path, photos: Path, kind: str | None
) -> None:
    (photos / "b.jpg").write_bytes((photos / "b.jpg").read_bytes()[:500])
    code, out, err = call("predict", model, photos, *([kind] if kind else []), "--device", "cpu")
    assert code == 1 and err.count("t2ipal: error:") == 1
    assert f"{photos / 'b.jpg'} cannot be read: " in err and "(1 of 7 images; the others were recognised)" in err
    line = next(line for line in out.splitlines() if "b.jpg" in line)
    assert "truncated" in line.lower()
    assert len(_table(out)) == (8 if kind == "--csv" else 7)


def test_bad_input_is_one_sentence(call: Called, model: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no image")
    Image.new("F", (9, 9)).save(tmp_path / "float.tiff")
    said = {
        (model, tmp_path / "empty"): "has no image",
        (model, tmp_path / "absent.png"): "cannot be read: there is no such file",
        (model, tmp_path / "text.txt"): "cannot be read: it is no image",
        (model, tmp_path / "float.tiff"): "cannot be read: it has pixels of kind F",
        (tmp_path / "absent", photos): "there is no model directory",
        (photos, photos): "no trained model in",
        (model, photos, "--csv", "--json"): "exclude each other",
        (model, photos, "--backbone", tmp_path / "nowhere"): "cannot be used without its CLIP",
        (model, photos, "--device", "gpu"): "--device 'gpu' is unknown",
    }
    for arguments, sentence in said.items():
        code, _, err = call("predict", *arguments, *([] if "--device" in arguments else ["--device", "cpu"]))
        errors = [line for line in err.splitlines() if line.startswith("t2ipal: error:")]
        assert code == 1 and len(errors) == 1 and sentence in errors[0], err
        assert "Traceback" not in err


def test_a_model_of_another_version_is_one_sentence(call: Called, model: Path, photos: Path) -> None:
    path = model / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 1}))
    code, _, err = call("predict", model, photos)
    assert code == 1 and "has format 1, this version of t2ipal reads format 2" in err


def test_a_model_that_decides_nothing_says_so(call: Called, make_model: MakeModel, photos: Path) -> None:
    code, out, err = call("predict", make_model(calibrated=False), photos / "a.png", "--device", "cpu")
    assert code == 0 and "scores only order images" in err and "\tscores " in out


def test_heatmaps_are_drawn_for_every_class_found(call: Called, model: Path, photos: Path, tmp_path: Path) -> None:
    code, out, _ = call("predict", model, photos, "--json", "--heatmaps", tmp_path / "maps", "--device", "cpu")
    found = sum(len(json.loads(line)["labels"]) for line in out.splitlines())
    drawn = sorted((tmp_path / "maps").iterdir())
    assert code == 0 and len(drawn) == found > 0
    assert all(path.name.isascii() and Image.open(path).size == (336, 336) for path in drawn)


def test_names_come_from_the_standard_input(model: Path, photos: Path) -> None:
    names = "\n".join(map(str, sorted(photos.glob("*.png"))))
    shown = _run([str(model), "-", "--json", "--device", "cpu"], names)
    assert shown.returncode == 0, shown.stderr
    assert [json.loads(line)["image"] for line in shown.stdout.splitlines()] == names.splitlines()
    assert _run([str(model), "-", "--device", "cpu"], "").stderr.endswith("no image was named on the standard input\n")


def _run(arguments: Sequence[str], given: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "t2ipal.cli", "predict", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **more}
    return subprocess.run(
        command, input=given, capture_output=True, text=True, env=environment, timeout=300, check=False
    )


def test_a_terminal_of_another_encoding_breaks_nothing(model: Path, photos: Path) -> None:
    shown = _run([str(model), str(photos / "f 🦊.png"), "--json"], PYTHONIOENCODING="ascii", PYTHONUTF8="1")
    assert shown.returncode == 0 and json.loads(shown.stdout)["image"].endswith("f 🦊.png")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(folder / "0.png")
    for number in range(1, 10_000):
        os.link(folder / "0.png", folder / f"{number}.png")
    code = (
        "import sys; from pathlib import Path; from t2ipal import cli; images = sys.argv[2:]\n"
        # Not ru_maxrss, which a process inherits from the one that started it.
        "def peak(): return int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) / 1024\n"
        "def run(images, out):\n"
        "    try: cli.main(['predict', sys.argv[1], *images, '--csv', '--output', out, '--device', 'cpu'])\n"
        "    except SystemExit as end: assert not end.code\n"
        "run([f'{images[0]}/{n}.png' for n in range(320)], images[1]); first = peak()\n"
        "run(images[:1], images[1]); print(peak() - first, len(open(images[1]).readlines()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", code, str(model), str(folder), str(tmp_path / "out.csv")]
    shown = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=1800)
    grown, lines = shown.stdout.split()
    assert float(grown) < 60 and int(lines) == 10_001, shown.stdout
    assert "of 10000 images" in shown.stderr
