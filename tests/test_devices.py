"""Choice of the device, on machines with and without GPUs."""

import pytest
import torch

from t2ipal.devices import resolve
from t2ipal.errors import UserError


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    count = request.param
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("gpus", "device", "expected"),
    [
        (0, "auto", "cpu"),
        (0, "cpu", "cpu"),
        (2, "auto", "cuda:0"),
        (2, "cpu", "cpu"),
        (2, "cuda", "cuda:0"),
        (2, "cuda:1", "cuda:1"),
    ],
    indirect=["gpus"],
)
def test_devices_that_are_there(gpus: None, device: str, expected: str) -> None:
    assert resolve(device, "synthesis.device") == expected


@pytest.mark.parametrize(
    ("gpus", "device", "there"),
    [(0, "cuda", "this machine has cpu$"), (2, "cuda:2", "this machine has cpu, cuda:0, cuda:1$")],
    indirect=["gpus"],
)
def test_a_gpu_that_is_not_there_is_refused_with_those_that_are(gpus: None, device: str, there: str) -> None:
    with pytest.raises(UserError, match=there):
        resolve(device, "synthesis.device")


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "cuda:1,2", "CPU", ""])
def test_unknown_devices_are_refused(device: str) -> None:
    with pytest.raises(UserError, match="set auto, cpu, cuda or cuda:N"):
        resolve(device, "synthesis.device")
