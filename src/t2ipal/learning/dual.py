"""DualCoOp's head (Sun et al., "DualCoOp", NeurIPS 2022): a positive and a negative embedding for each class.

Only the scores; its prompts are learned with ``t2ipal.learning.losses.asymmetric_loss`` on the known labels. What we
decided ourselves is marked "reconstruction". Notation: N samples, C classes, L local positions, D embedding size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from t2ipal.learning.heads import check_kind, local_cosines, sharpen
from t2ipal.learning.pieces import Array, local_pieces


def dual_logits(
    local: Tensor, length: Tensor | None, positive: Tensor, negative: Tensor, tau_s: float, scale: float
) -> Tensor:
    """``scale (s+_c - s-_c)``, whose sigmoid is the probability ``softmax(scale [s+_c, s-_c])`` of class c.

    ``s+`` and ``s-`` are sums over the positions of the cosines with the positive and with the negative embedding,
    both weighted by the softmax of the positive cosines times ``tau_s``: the region where the class would be
    (class-specific region feature aggregation). Differentiable in all tensors.

    Args:
        local: [N, L, D] local features.
        length: [N] valid positions of each sample, at least 1; None if all are valid.
        positive: [C, D].
        negative: [C, D].
        tau_s: sharpness of the aggregation; 0 weighs all positions alike.
        scale: inverse temperature of the softmax.

    Returns:
        [N, C].
    """
    present, absent = local_cosines(local, positive), local_cosines(local, negative)
    return scale * (sharpen(present, tau_s, length) * (present - absent)).sum(dim=-1)


@dataclass(frozen=True)
class DualHead:
    """Positive and negative class embeddings [C, D] with sharpness and scale; see ``dual_logits``."""

    kind: ClassVar[str] = "dual"

    labels: tuple[str, ...]
    positive: Tensor
    negative: Tensor
    tau_s: float
    scale: float

    def __post_init__(self) -> None:
        if self.positive.ndim != 2 or self.positive.shape != self.negative.shape:
            raise ValueError(
                f"positive {tuple(self.positive.shape)} and negative {tuple(self.negative.shape)} embeddings must be "
                "[C, D] alike"
            )
        if len(self.positive) != len(self.labels):
            raise ValueError(f"{len(self.positive)} class embeddings do not fit {len(self.labels)} labels")
        if not (math.isfinite(self.tau_s) and math.isfinite(self.scale)):
            raise ValueError(f"tau_s and scale must be finite, not {self.tau_s} and {self.scale}")

    @classmethod
    def assemble(cls, description: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """The head of a ``description()`` and its ``tensors()``; other entries of the two are left alone.

        Raises:
            KeyError: something is missing.
            ValueError: the parts do not fit together, or describe another kind of head.
        """
        check_kind(description, cls.kind)
        labels, tau_s, scale = tuple(description["labels"]), float(description["tau_s"]), float(description["scale"])
        return cls(labels, tensors["positive"], tensors["negative"], tau_s, scale)

    def description(self) -> dict[str, Any]:
        """All but the tensors, as JSON holds it."""
        return {"kind": self.kind, "labels": list(self.labels), "tau_s": self.tau_s, "scale": self.scale}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {"positive": self.positive, "negative": self.negative}

    def to(self, device: str | torch.device) -> Self:
        """The same head with its tensors on ``device``."""
        return replace(self, positive=self.positive.to(device), negative=self.negative.to(device))

    @torch.inference_mode()
    def scores(self, global_: Array, local: Array, length: Array | None = None, batch: int = 1024) -> Tensor:
        """Logits [N, C], float32 on the CPU, of local features [N, L, D].

        Args:
            global_: not used; heads share one interface.
            local: tensor or array, any float type.
            length: [N] valid local positions; None if all are valid.
            batch: samples computed together; bounds the memory, N may exceed it.
        """
        parts = (
            dual_logits(piece, valid, self.positive, self.negative, self.tau_s, self.scale).float().cpu()
            for piece, valid in local_pieces(local, length, batch, self.positive)
        )
        return torch.cat([torch.empty(0, len(self.labels)), *parts])

    @torch.inference_mode()
    def heatmaps(self, local: Array, length: Array | None = None, batch: int = 1024) -> Tensor:
        """Where each class would be, [N, C, L], float32 on the CPU: the weights of the aggregation."""
        parts = (
            sharpen(local_cosines(piece, self.positive), self.tau_s, valid).float().cpu()
            for piece, valid in local_pieces(local, length, batch, self.positive)
        )
        return torch.cat([torch.empty(0, len(self.labels), local.shape[1]), *parts])
