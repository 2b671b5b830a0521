"""The device that a job computes on. A GPU is leased: jobs of one machine never share one by accident.

A lease is a lock on a file of the machine's temporary directory, with the host's name in it, as machines may share
that directory. The kernel frees it when the job ends, however that ends. It is taken before torch is imported, as
``CUDA_VISIBLE_DEVICES`` counts only until then.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from t2ipal.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"
# For tests of many GPUs on a machine without any: so many are leased, and the CPU computes.
SIMULATED = "T2IPAL_SIMULATED_GPUS"
POLL_SECONDS = 0.5


def _installed() -> list[str]:
    """The UUIDs of the machine's GPUs, in the order of their indices; none where there is no NVIDIA driver."""
    try:
        query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        listed = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in listed.splitlines() if line.strip()]


def visible() -> list[str]:
    """The GPUs that jobs may use: those of a preset ``CUDA_VISIBLE_DEVICES`` (indices, UUIDs, MIG ids), else all."""
    simulated = os.environ.get(SIMULATED)
    preset = os.environ.get(VISIBLE)
    if simulated:
        indices = map(str, range(int(simulated))) if preset is None else filter(None, preset.split(","))
        return [f"simulated-{index}" for index in indices]
    if preset is None:
        return _installed()
    installed: list[str] | None = None
    found = []
    for entry in filter(None, (part.strip() for part in preset.split(","))):
        if re.fullmatch(r"-\d+", entry):
            break  # as CUDA reads it: what stands behind an invalid index is invisible
        if entry.isdecimal():
            # One name for one GPU, so that jobs that call it differently still exclude each other.
            installed = _installed() if installed is None else installed
            entry = installed[int(entry)] if int(entry) < len(installed) else entry
        found.append(entry)
    return found


def _candidates(device: str, key: str, gpus: Sequence[str]) -> Sequence[str]:
    """The GPUs that would do; none for the CPU.

    Raises:
        UserError: the text is unknown, or the GPU is not there; names the devices that are.
    """
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", device)
    if match is None:
        raise UserError(f"{key} '{device}' is unknown: set auto, cpu, cuda or cuda:N")
    if device == "cpu" or (device == "auto" and not gpus):
        return ()
    if device in ("auto", "cuda") and gpus:
        return gpus
    index = int(match[1] or 0)
    if index >= len(gpus):
        there = ", ".join(["cpu", *(f"cuda:{number}" for number in range(len(gpus)))])
        raise UserError(f"{key} '{device}' is not there: this machine has {there}")
    return gpus[index : index + 1]


def _try_lock(gpu: str) -> IO[bytes] | None:
    """The open lock file of a GPU, or None if another process holds it."""
    folder = Path(tempfile.gettempdir(), f"t2ipal-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    handle = (folder / re.sub(r"[^\w.-]", "_", f"{socket.gethostname()}-{gpu}")).open("ab")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        return None
    return handle


def _acquire(gpus: Sequence[str]) -> tuple[str, IO[bytes]]:
    """The first GPU that is or becomes free."""
    said = False
    while True:
        for gpu in gpus:
            handle = _try_lock(gpu)
            if handle is not None:
                return gpu, handle
        if not said:
            print(f"t2ipal: all of {len(gpus)} GPUs are leased by other jobs; waiting for one", file=sys.stderr)
            said = True
        time.sleep(POLL_SECONDS)


@contextmanager
def lease(device: str, key: str) -> Iterator[str]:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N`` -> the torch device to use, alone, while the block lasts.

    ``auto`` takes a GPU where there is one. The leased GPU is the only one that torch will see, as ``cuda:0``.
    ``key`` is the config key for the sentence.

    Raises:
        UserError: the text is none of these, or the GPU is not there or not usable.
    """
    gpus = _candidates(device, key, visible())
    if not gpus:
        yield "cpu"
        return
    gpu, handle = _acquire(gpus)
    with ExitStack() as stack:
        stack.callback(handle.close)
        if os.environ.get(SIMULATED):
            print(f"t2ipal: leased {gpu} of {socket.gethostname()}", file=sys.stderr, flush=True)
            yield "cpu"
            return
        os.environ[VISIBLE] = gpu
        _check_usable(gpu, key)
        yield "cuda:0"


def _check_usable(gpu: str, key: str) -> None:
    import torch

    if not torch.cuda.is_available():
        raise UserError(f"{key}: torch cannot use GPU {gpu}; install torch for its CUDA version, or set cpu")


def describe(device: str) -> str:
    """The torch device with the GPU's model name, for the record."""
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else device
