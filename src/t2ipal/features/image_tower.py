"""The image tower of an open_clip model without its text tower, which prediction has no use for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PREFIX = "visual."


def alone(name: str, pretrained: str | None, precision: str, path: Path) -> nn.Module | None:
    """The image tower of a model, with the weights in ``path``; None where it cannot be had alone.

    The model is built without memory (on torch's device ``meta``), so that open_clip's own rules on configuration,
    activation and preprocessing hold; then the image tower gets its tensors, and the rest is dropped.

    Args:
        name: as open_clip calls it, or ``local-dir:`` or ``hf-hub:`` and where it is.
        pretrained: tag or file; None where the model brings its weights.
        precision: as open_clip calls it.
        path: the file of weights, which is known to be safe.
    """
    import open_clip

    try:
        with torch.device("meta"), _hushed():
            model: Any = open_clip.create_model(
                name, pretrained, precision=precision, device="meta", load_weights=False
            )
        visual: nn.Module = model.visual
        types = {key: value.dtype for key, value in visual.state_dict().items()}
        state = {key: value.to(types[key]) for key, value in _tensors(path)}
        visual.load_state_dict(state, strict=True, assign=True)
    # Weights that are named otherwise, or a tower that reads its numbers while it is built: open_clip knows how.
    except (KeyError, RuntimeError, NotImplementedError):
        return None
    tensors = (*visual.parameters(), *visual.buffers())
    return None if any(tensor.is_meta for tensor in tensors) else visual


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The image tower's tensors in a file, by their names in the tower."""
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no mapping)
                if name.startswith(PREFIX):
                    yield name.removeprefix(PREFIX), file.get_tensor(name)
        return
    from open_clip.factory import load_state_dict

    for name, value in load_state_dict(str(path)).items():
        if name.startswith(PREFIX):
            yield name.removeprefix(PREFIX), value


@contextmanager
def _hushed() -> Iterator[None]:
    """open_clip warns of a model without weights, which here is meant."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
