"""Choice and lease of the device, on machines with and without GPUs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from t2ipal import devices
from t2ipal.devices import SIMULATED, VISIBLE, _candidates, lease, visible
from t2ipal.errors import UserError

TWO = ["GPU-aaaa", "GPU-bbbb"]
HOLDER = """
import time
from t2ipal.devices import lease
with lease("auto", "k"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _own_locks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.delenv(SIMULATED, raising=False)
    monkeypatch.setattr(devices, "POLL_SECONDS", 0.02)


@pytest.mark.parametrize(
    ("gpus", "device", "expected"),
    [
        ([], "auto", []),
        ([], "cpu", []),
        (TWO, "auto", TWO),
        (TWO, "cpu", []),
        (TWO, "cuda", TWO),
        (TWO, "cuda:1", ["GPU-bbbb"]),
    ],
)
def test_devices_that_are_there(gpus: list[str], device: str, expected: list[str]) -> None:
    assert list(_candidates(device, "synthesis.device", gpus)) == expected


@pytest.mark.parametrize(
    ("gpus", "device", "there"),
    [
        ([], "cuda", "this machine has cpu$"),
        ([], "cuda:0", "this machine has cpu$"),
        (TWO, "cuda:2", "this machine has cpu, cuda:0, cuda:1$"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused_with_those_that_are(gpus: list[str], device: str, there: str) -> None:
    with pytest.raises(UserError, match=there):
        _candidates(device, "synthesis.device", gpus)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "cuda:1,2", "CPU", ""])
def test_unknown_devices_are_refused(device: str) -> None:
    with pytest.raises(UserError, match="set auto, cpu, cuda or cuda:N"), lease(device, "synthesis.device"):
        pass


def test_without_a_driver_auto_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with lease("auto", "synthesis.device") as device:
        assert device == "cpu"


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("", []),
        ("-1", []),
        ("1", ["GPU-bbbb"]),
        ("1,0", ["GPU-bbbb", "GPU-aaaa"]),
        ("0,-1,1", ["GPU-aaaa"]),
        ("GPU-bbbb", ["GPU-bbbb"]),
        ("MIG-1234-5678, MIG-9", ["MIG-1234-5678", "MIG-9"]),
        ("7", ["7"]),
    ],
)
def test_preset_visible_devices_are_respected_under_one_name_each(
    monkeypatch: pytest.MonkeyPatch, preset: str, expected: list[str]
) -> None:
    monkeypatch.setattr(devices, "_installed", lambda: TWO)
    monkeypatch.setenv(VISIBLE, preset)
    assert visible() == expected


def test_the_driver_is_asked_for_the_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho GPU-aaaa\necho GPU-bbbb\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert visible() == TWO


def test_a_lease_shows_torch_its_own_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_installed", lambda: TWO)
    monkeypatch.setattr(devices, "_check_usable", lambda gpu, key: None)
    monkeypatch.setenv(VISIBLE, "0,1")
    with lease("auto", "k") as first:
        assert (first, os.environ[VISIBLE]) == ("cuda:0", "GPU-aaaa")
        monkeypatch.setenv(VISIBLE, "0,1")
        with lease("auto", "k") as second:
            assert (second, os.environ[VISIBLE]) == ("cuda:0", "GPU-bbbb")


def test_a_gpu_that_torch_cannot_use_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_installed", lambda: TWO)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv(VISIBLE, "0")
    with pytest.raises(UserError, match="torch cannot use GPU GPU-aaaa"), lease("auto", "features.device"):
        pass


def _holder() -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_jobs_hold_different_gpus_and_a_killed_one_frees_its_own(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(SIMULATED, "2")
    holders = [_holder(), _holder()]
    try:
        assert devices._try_lock("simulated-0") is devices._try_lock("simulated-1") is None
        holders[1].send_signal(signal.SIGKILL)
        with lease("auto", "k") as device:
            assert device == "cpu"
            assert holders[0].poll() is None  # it was not waited for
        assert "leased simulated-1" in capfd.readouterr().err
    finally:
        for process in holders:
            process.kill()
            process.wait()


def test_a_job_waits_for_a_gpu_and_says_so(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(SIMULATED, "1")
    holder = _holder()
    waiting = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert waiting.stderr is not None and waiting.stdout is not None
        assert "all of 1 GPUs are leased by other jobs; waiting" in waiting.stderr.readline()
        holder.terminate()
        assert waiting.stdout.readline() == "held\n"
    finally:
        for process in (holder, waiting):
            process.kill()
            process.wait()
