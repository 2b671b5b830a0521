"""The whole stage with a tiny pipeline: interruptions of every kind change no byte of a shard."""

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from t2ipal.errors import UnfinishedError, UserError
from t2ipal.io import file_sha256
from t2ipal.synthesis import generator
from t2ipal.synthesis.generator import Generator
from t2ipal.synthesis.plan import Shard, shards
from t2ipal.synthesis.shard import label_of
from t2ipal.synthesis.stage import Job, draw, stop_requests

Settings = dict[str, Any]


def draw_shard(settings: Settings, captions: Path, chunk: int, output: Path, count: int = 0) -> None:
    """Draw one shard of the first replica; it is full unless ``count`` is given."""
    size = settings["shard_size"]
    draw([Job(settings, captions, Shard(0, chunk, count or size, size), output)], "cpu")


class CrashError(Exception):
    """A simulated power cut."""


class Tap:
    """Wraps ``Generator.denoise``: counts images, and calls ``event`` before the given call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int = -1, event: Any = None) -> None:
        self.images = self.calls = 0
        denoise = Generator.denoise

        def tapped(generator: Generator, condition: Any, seeds: list[int], between: Any = None) -> Any:
            if self.calls == at:
                event()
            self.calls += 1
            self.images += len(seeds)
            return denoise(generator, condition, seeds, between)

        monkeypatch.setattr(Generator, "denoise", tapped)


def crash() -> None:
    raise CrashError


def records(output: Path) -> list[dict[str, Any]]:
    with tarfile.open(output) as tar:
        return [json.load(tar.extractfile(item)) for item in tar if item.name.endswith(".json")]


def manifest(output: Path) -> dict[str, Any]:
    return json.loads(output.with_suffix(".json").read_text())


@pytest.fixture
def undisturbed(tmp_path: Path, settings: Settings, captions: Path) -> bytes:
    output = tmp_path / "undisturbed" / "shard-00000.tar"
    draw_shard(settings, captions, 0, output)
    return output.read_bytes()


def test_a_shard_holds_its_captions_labels_and_distinct_images(
    tmp_path: Path, settings: Settings, captions: Path
) -> None:
    output = tmp_path / "out" / "shard-00001-n5.tar"
    draw_shard(settings, captions, 1, output, count=5)
    rows = records(output)
    assert [row["key"] for row in rows] == [f"{index:016x}-000" for index in range(6, 11)]
    assert [row["labels"] for row in rows] == [["dog"] if index % 2 else ["cat", "dog"] for index in range(6, 11)]
    with tarfile.open(output) as tar:
        images = [np.asarray(Image.open(tar.extractfile(item))) for item in tar if item.name.endswith(".png")]
        assert tar.extractfile(f"{rows[0]['key']}.txt").read().decode() == "a photo of a dog, number 6 · 狗"
    assert {image.shape for image in images} == {(16, 16, 3)}
    assert len({image.tobytes() for image in images}) == 5
    facts = manifest(output)
    assert facts["sha256"] == file_sha256(output)
    assert facts["seconds"] > 0
    assert facts["images_per_second"] > 0
    assert {key: facts[key] for key in ("shard", "count", "redrawn", "failed", "device", "resumed")} == {
        "shard": "00001-n5",
        "count": 5,
        "redrawn": 0,
        "failed": 0,
        "device": "cpu",
        "resumed": 0,
    }
    assert facts["settings_digest"] == rows[0]["settings_digest"]


@pytest.mark.parametrize("batches", [0, 1, 2])
def test_a_crash_after_some_batches_changes_no_byte_and_draws_none_again(
    tmp_path: Path,
    settings: Settings,
    captions: Path,
    undisturbed: bytes,
    monkeypatch: pytest.MonkeyPatch,
    batches: int,
) -> None:
    output = tmp_path / "shard-00000.tar"
    with monkeypatch.context() as patch:
        Tap(patch, batches, crash)
        with pytest.raises(CrashError):
            draw_shard(settings, captions, 0, output)
    assert not output.exists()
    tap = Tap(monkeypatch)
    draw_shard(settings, captions, 0, output)
    assert tap.images == 6 - 2 * batches
    assert output.read_bytes() == undisturbed
    assert manifest(output)["resumed"] == 2 * batches


def test_a_torn_tail_changes_no_byte(
    tmp_path: Path, settings: Settings, captions: Path, undisturbed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "shard-00000.tar"
    rng = np.random.default_rng(1)
    for _ in range(3):
        with monkeypatch.context() as patch:
            Tap(patch, 2, crash)
            with pytest.raises(CrashError):
                draw_shard(settings, captions, 0, output)
        part = output.with_name("shard-00000.tar.part")
        os.truncate(part, int(rng.integers(1, part.stat().st_size)))
        draw_shard(settings, captions, 0, output)
        assert output.read_bytes() == undisturbed
        output.unlink()


def test_changed_settings_resume_nothing(
    tmp_path: Path,
    settings: Settings,
    captions: Path,
    undisturbed: bytes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "shard-00000.tar"
    with monkeypatch.context() as patch:
        Tap(patch, 2, crash)
        with pytest.raises(CrashError):
            draw_shard(settings | {"guidance": 5.0}, captions, 0, output)
    draw_shard(settings, captions, 0, output)
    assert "discarded" in capsys.readouterr().err
    assert output.read_bytes() == undisturbed


def test_sigterm_finishes_the_batch_and_exits_with_tempfail(
    tmp_path: Path,
    settings: Settings,
    captions: Path,
    undisturbed: bytes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "shard-00000.tar"
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        tap = Tap(patch, 1, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(SystemExit) as stopped:
            draw_shard(settings, captions, 0, output)
    assert stopped.value.code == UnfinishedError.EX_TEMPFAIL == 75
    assert tap.images == 4
    assert signal.getsignal(signal.SIGTERM) is before
    assert "4 of 6 images are kept" in capsys.readouterr().err
    tap = Tap(monkeypatch)
    draw_shard(settings, captions, 0, output)
    assert tap.images == 2
    assert output.read_bytes() == undisturbed


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    seen: list[bool] = []

    def enter() -> None:
        with stop_requests() as stop:
            seen.append(stop.is_set())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [False]


def spoil(monkeypatch: pytest.MonkeyPatch, seeds: set[int]) -> None:
    """Let the model draw NaN for the given seeds."""
    denoise = Generator.denoise

    def spoiled(generator: Generator, condition: Any, asked: list[int], between: Any = None) -> Any:
        latents = denoise(generator, condition, asked, between)
        values = latents.values.clone()
        values[[seed in seeds for seed in asked]] = float("nan")
        return replace(latents, values=values)

    monkeypatch.setattr(Generator, "denoise", spoiled)


def test_a_spoilt_image_is_redrawn_and_the_attempt_recorded(
    tmp_path: Path, settings: Settings, captions: Path, undisturbed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = records(tmp_path / "undisturbed" / "shard-00000.tar")
    spoil(monkeypatch, {plain[3]["seed"]})
    output = tmp_path / "shard-00000.tar"
    draw_shard(settings, captions, 0, output)
    rows = records(output)
    assert rows[3]["attempt"] == 1
    assert rows[3]["faults"] == ["nan"]
    assert rows[3]["seed"] != plain[3]["seed"]
    assert rows[3]["sha256"] != plain[3]["sha256"]
    assert rows[:3] + rows[4:] == plain[:3] + plain[4:]
    assert manifest(output)["redrawn"] == 1
    assert manifest(output)["failed"] == 0
    assert manifest(output)["faults"] == {"nan": 1, "blanked": 0, "black": 0, "constant": 0}


def test_a_failed_image_is_recorded_with_its_labels_and_counted_after_a_resume(
    tmp_path: Path, settings: Settings, captions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from t2ipal.synthesis.plan import image_seed

    bad = {image_seed(f"{1:016x}", 0, attempt, settings["seed"]) for attempt in range(3)}
    spoil(monkeypatch, bad)
    output = tmp_path / "shard-00000.tar"
    with monkeypatch.context() as patch:
        Tap(patch, 4, crash)  # batch 0 takes three calls, and the last batch waits for it
        with pytest.raises(CrashError):
            draw_shard(settings, captions, 0, output)
    draw_shard(settings, captions, 0, output)
    rows = records(output)
    assert [row["failed"] for row in rows] == [False, True, False, False, False, False]
    assert rows[1]["labels"] == ["dog"]
    assert rows[1]["faults"] == ["nan", "nan", "nan"]
    assert manifest(output)["failed"] == 1
    assert manifest(output)["resumed"] == 4
    assert manifest(output)["count"] == 6


def test_seeds_and_pixels_do_not_depend_on_the_shard_size(
    tmp_path: Path, settings: Settings, captions: Path, undisturbed: bytes
) -> None:
    output = tmp_path / "small.tar"
    draw_shard(settings | {"shard_size": 2}, captions, 1, output)
    small, large = records(output), records(tmp_path / "undisturbed" / "shard-00000.tar")[2:4]
    assert [(row["key"], row["seed"], row["sha256"]) for row in small] == [
        (row["key"], row["seed"], row["sha256"]) for row in large
    ]


def test_a_log_is_told_the_speed_in_plain_lines(
    tmp_path: Path, settings: Settings, captions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_shard(settings, captions, 0, tmp_path / "shard.tar")
    written = capsys.readouterr().err
    assert re.search(r"shard 00000: 6 of 6 images, [\d.]+/s", written)
    assert "\r" not in written


def test_a_shard_outside_the_captions_is_refused(tmp_path: Path, settings: Settings, captions: Path) -> None:
    with pytest.raises(UserError, match="shard 00002 needs the captions 12 to 17, but there are 11"):
        draw_shard(settings, captions, 2, tmp_path / "shard.tar")


def test_several_shards_are_drawn_from_one_loading_of_the_model_and_finished_ones_are_kept(
    tmp_path: Path, settings: Settings, captions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    load = generator.load
    monkeypatch.setattr(generator, "load", lambda *given: (loads.append(given[1]), load(*given))[1])
    jobs = [
        Job(settings | {"seed": seed}, captions, shard, tmp_path / f"s{seed}" / f"shard-{shard.name}.tar")
        for seed in (0, 1)
        for shard in shards(11, 1, 6)
    ]
    draw(jobs[:1], "cpu")
    kept = jobs[0].output.stat().st_mtime_ns
    tap = Tap(monkeypatch)
    draw(jobs, "cpu")
    assert loads == ["cpu", "cpu"]
    assert tap.images == 2 * 11 - 6
    assert jobs[0].output.stat().st_mtime_ns == kept
    assert records(jobs[0].output)[0]["seed"] != records(jobs[2].output)[0]["seed"]
    label = label_of(jobs[0].output)
    label.write_text("{}")
    draw(jobs, "cpu")
    assert len(loads) == 2
    assert not label.exists()


def test_more_captions_draw_only_what_is_new(
    tmp_path: Path, settings: Settings, captions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = Job(settings, captions, Shard(0, 0, 4, 6), tmp_path / "shard-00000-n4.tar")
    many = Job(settings, captions, Shard(0, 0, 6, 6), tmp_path / "shard-00000.tar")
    alone = tmp_path / "alone" / "shard-00000.tar"
    draw_shard(settings, captions, 0, alone)
    draw([few], "cpu")
    tap = Tap(monkeypatch)
    draw([many], "cpu")
    assert tap.images == 2
    assert many.output.read_bytes() == alone.read_bytes()
    few.output.unlink()
    draw([few], "cpu")
    assert tap.images == 2
    assert records(few.output) == records(many.output)[:4]


def test_a_damaged_shard_is_drawn_again(
    tmp_path: Path, settings: Settings, captions: Path, undisturbed: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "undisturbed" / "shard-00000.tar"
    output.write_bytes(undisturbed[:700] + b"x" + undisturbed[701:])
    draw_shard(settings, captions, 0, output)
    assert "shard-00000.tar is damaged: its sha256 is not that of its manifest" in capsys.readouterr().err
    assert output.read_bytes() == undisturbed


_JOB = """
import json, sys
from pathlib import Path
from t2ipal.synthesis.generator import Generator
from t2ipal.synthesis.stage import Job, draw
from t2ipal.synthesis.plan import Shard
real, calls = Generator.denoise, iter(range(100))
def told(*args):
    print("drawing", flush=True)
    if next(calls) == 2:
        sys.stdin.read()  # until it is killed
    return real(*args)
Generator.denoise = told
draw([Job(json.loads(sys.argv[1]), Path(sys.argv[2]), Shard(0, 0, 6, 6), Path(sys.argv[3]))], "cpu")
"""


@pytest.mark.slow
def test_sigkill_of_a_real_process_changes_no_byte(
    tmp_path: Path, settings: Settings, captions: Path, undisturbed: bytes
) -> None:
    output = tmp_path / "killed" / "shard-00000.tar"
    command = [sys.executable, "-c", _JOB, json.dumps(settings), str(captions), str(output)]
    source = Path(__file__).parents[2] / "src"
    environment = os.environ | {"PYTHONPATH": str(source)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        for _ in range(3):
            assert process.stdout.readline() == "drawing\n"
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not output.exists()
    draw_shard(settings, captions, 0, output)
    assert manifest(output)["resumed"] in (2, 4)
    assert output.read_bytes() == undisturbed


def test_a_full_disk_is_a_sentence_and_keeps_whole_batches(
    tmpfs: Callable[[int], Path],
    settings: Settings,
    captions: Path,
    undisturbed: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_disk = tmpfs(64)
    output = small_disk / "shard-00000.tar"
    filler = small_disk / "filler"
    filler.write_bytes(bytes(40_000))
    with pytest.raises(UserError, match=r"no space left to write .*shard-00000\.tar.*free some and run again"):
        draw_shard(settings, captions, 0, output)
    assert not output.exists()
    filler.unlink()
    tap = Tap(monkeypatch)
    draw_shard(settings, captions, 0, output)
    assert 0 < tap.images < 6
    assert output.read_bytes() == undisturbed
