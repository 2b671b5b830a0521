"""Trained models on disk: ``model.json`` tells what ``model.safetensors`` holds; together they predict."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from t2ipal.errors import UserError
from t2ipal.io import atomic_path, file_sha256, read_json, write_json
from t2ipal.learning.clip_adapter import ClipAdapterHead
from t2ipal.learning.dual import DualHead
from t2ipal.learning.ensemble import EnsembleHead
from t2ipal.learning.heads import Head
from t2ipal.learning.linear import LinearHead
from t2ipal.learning.pieces import Array

FORMAT = 2
MODEL_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"
_PACKAGES = ("torch", "numpy", "open_clip_torch", "safetensors", "scikit-learn")


class Scorer(Protocol):
    """A head of any kind: scores from cached features, without a text encoder."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class ids, in the order of the scores."""

    def scores(self, global_: Array, local: Array, length: Array | None = None, batch: int = 1024) -> Tensor:
        """[N, C], float32 on the CPU, of global [N, D] and local [N, L, D] features."""

    def tensors(self) -> dict[str, Tensor]:
        """What is saved as weights."""

    def description(self) -> dict[str, Any]:
        """What is saved beside the weights; its ``kind`` tells which head it is."""

    def to(self, device: str | torch.device) -> Self:
        """The same head with its tensors on ``device``."""


def localises(head: Scorer) -> bool:
    """Whether a head has class-wise heatmaps: ``heatmaps(local, length, batch)``, as ``Head``."""
    if isinstance(head, EnsembleHead):
        return any(localises(member) for member in head.members)
    return hasattr(head, "heatmaps")


def assemble(description: dict[str, Any], tensors: dict[str, Tensor]) -> Scorer:
    """The head that ``description`` and ``tensors`` tell of.

    Raises:
        KeyError, TypeError, ValueError: they are incomplete or do not fit together.
    """
    kind = description["kind"]
    if kind == EnsembleHead.kind:
        return EnsembleHead.assemble(description, tensors, assemble)
    for head in (Head, LinearHead, ClipAdapterHead, DualHead):
        if head.kind == kind:
            found: Scorer = head.assemble(description, tensors)
            return found
    raise ValueError(f"no head is of kind {kind!r}")


def load(model_dir: Path, device: str | torch.device = "cpu") -> Scorer:
    """Read a trained model of any kind.

    Raises:
        UserError: a file is missing, damaged, of another format, or the two do not belong together.
    """
    description = read_description(model_dir)
    tensors = _read_weights(model_dir / WEIGHTS_FILE, description)
    try:
        return assemble(description["head"], tensors).to(device)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"model in {model_dir} is damaged or incomplete ({error!r}); train it again") from None


def read_description(model_dir: Path) -> dict[str, Any]:
    """The content of ``model.json``.

    Raises:
        UserError: it is missing, damaged or of another format.
    """
    path = model_dir / MODEL_FILE
    try:
        description = read_json(path)
    except FileNotFoundError:
        raise UserError(f"no trained model in {path.parent}: {path.name} is missing; run the training stage") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"model file {path} cannot be read ({error}); train the model again") from None
    found = description.get("format") if isinstance(description, dict) else None
    if found != FORMAT:
        raise UserError(f"model file {path} has format {found!r}, this version of t2ipal reads format {FORMAT}")
    return dict(description)


def _read_weights(path: Path, description: dict[str, Any]) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file_sha256(path) != description.get("weights_sha256"):
            raise UserError(
                f"model weights {path} do not belong to the {MODEL_FILE} beside them; train the model again"
            )
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise UserError(f"model weights {path} cannot be read ({error}); train the model again") from None


def write(head: Scorer, contexts: dict[str, Tensor], about: dict[str, Any], output: Path) -> None:
    """Write ``model.safetensors`` beside ``output``, then ``output`` itself; each appears whole or not at all.

    Args:
        head: what predicts.
        contexts: further tensors to keep, such as the prompts' contexts.
        about: what the description says beyond the head.
        output: the ``model.json``.
    """
    from safetensors.torch import save_file

    weights = output.with_name(WEIGHTS_FILE)
    tensors = {name: value.float().cpu().contiguous().clone() for name, value in (head.tensors() | contexts).items()}
    with atomic_path(weights) as partial:
        save_file(tensors, partial)
    versions = {name: version(name) for name in _PACKAGES}
    description = {**about, "format": FORMAT, "labels": list(head.labels), "head": head.description()}
    write_json(output, {**description, "versions": versions, "weights_sha256": file_sha256(weights)})


def is_current(output: Path, inputs: list[Path]) -> bool:
    """Whether the model at ``output`` (a ``model.json``) is whole and newer than all ``inputs``."""
    try:
        description = read_description(output.parent)
        weights = output.with_name(WEIGHTS_FILE)
        made = min(output.stat().st_mtime_ns, weights.stat().st_mtime_ns)
        newest = max((path.stat().st_mtime_ns for path in inputs), default=0)
        return made >= newest and file_sha256(weights) == description.get("weights_sha256")
    except (UserError, OSError):
        return False
