"""The device that a job computes on."""

from __future__ import annotations

import re

from t2ipal.errors import UserError


def resolve(device: str, key: str) -> str:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N`` -> ``cpu`` or ``cuda:N``; ``auto`` takes a GPU where there is one.

    ``key`` is the config key for the sentence.

    Raises:
        UserError: the text is none of these, or the GPU is not there; names the devices that are.
    """
    import torch

    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", device)
    if match is None:
        raise UserError(f"{key} '{device}' is unknown: set auto, cpu, cuda or cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cpu" or (device == "auto" and count == 0):
        return "cpu"
    index = int(match[1] or 0)
    if index >= count:
        there = ", ".join(["cpu", *(f"cuda:{number}" for number in range(count))])
        raise UserError(f"{key} '{device}' is not there: this machine has {there}")
    return f"cuda:{index}"


def describe(device: str) -> str:
    """The resolved device with the GPU's model name, for the record."""
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else device
