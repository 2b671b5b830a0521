"""Score-level ensemble of heads of any kind, such as DualCoOp with ours (reconstruction).

The members' scores have scales of their own: each member's are standardised with a mean and a standard deviation
fitted beforehand, so that an image's score does not depend on the images scored with it; then they are added with
weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from t2ipal.learning.heads import check_kind
from t2ipal.learning.pieces import Array

if TYPE_CHECKING:
    from t2ipal.learning.models import Scorer

_NUMBERS = ("means", "deviations", "weights")


@dataclass(frozen=True)
class EnsembleHead:
    """Members and, for each, the mean and standard deviation of its scores and its weight.

    The score is ``sum_m weight_m (s_m - mean_m) / deviation_m``.
    """

    kind: ClassVar[str] = "ensemble"

    members: tuple[Scorer, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise ValueError("an ensemble needs two members or more")
        if any(member.labels != self.labels for member in self.members):
            raise ValueError("the members of an ensemble must have the same labels in the same order")
        for name in _NUMBERS:
            numbers = getattr(self, name)
            if len(numbers) != len(self.members) or not all(map(math.isfinite, numbers)):
                raise ValueError(f"{name} must be {len(self.members)} finite numbers, not {numbers}")
        if min(self.deviations) <= 0:
            raise ValueError(f"deviations must be positive, not {self.deviations}: a member's scores are all equal")

    @classmethod
    def assemble(
        cls,
        description: dict[str, Any],
        tensors: dict[str, Tensor],
        assemble_member: Callable[[dict[str, Any], dict[str, Tensor]], Scorer],
    ) -> Self:
        """The ensemble of a ``description()`` and its ``tensors()``; other entries of the two are left alone.

        Args:
            description: of the ensemble, its members' nested in it.
            tensors: named as in ``tensors()``.
            assemble_member: makes one member from its own description and tensors.

        Raises:
            KeyError: something is missing.
            ValueError: the parts do not fit together, or describe another kind of head.
        """
        check_kind(description, cls.kind)
        members = tuple(
            assemble_member(member, _without_prefix(tensors, f"{number}."))
            for number, member in enumerate(description["members"])
        )
        head = cls(members, *(tuple(float(value) for value in description[name]) for name in _NUMBERS))
        if head.labels != tuple(description["labels"]):
            raise ValueError("the members have other labels than the ensemble")
        return head

    @property
    def labels(self) -> tuple[str, ...]:
        """Class ids, in the order of the scores."""
        return self.members[0].labels

    def description(self) -> dict[str, Any]:
        """All but the tensors, as JSON holds it."""
        return {
            "kind": self.kind,
            "labels": list(self.labels),
            **{name: list(getattr(self, name)) for name in _NUMBERS},
            "members": [member.description() for member in self.members],
        }

    def tensors(self) -> dict[str, Tensor]:
        """The members' tensors, their names led by the member's number and a point."""
        return {
            f"{number}.{name}": tensor
            for number, member in enumerate(self.members)
            for name, tensor in member.tensors().items()
        }

    def to(self, device: str | torch.device) -> Self:
        """The same head with its tensors on ``device``."""
        return replace(self, members=tuple(member.to(device) for member in self.members))

    @torch.inference_mode()
    def scores(self, global_: Array, local: Array, length: Array | None = None, batch: int = 1024) -> Tensor:
        """Scores [N, C], float32 on the CPU; the arguments are handed to each member."""
        total = torch.zeros(len(global_), len(self.labels))
        for member, mean, deviation, weight in zip(
            self.members, self.means, self.deviations, self.weights, strict=True
        ):
            total += weight * (member.scores(global_, local, length, batch) - mean) / deviation
        return total

    def heatmaps(self, local: Array, length: Array | None = None, batch: int = 1024) -> Tensor:
        """The mean [N, C, L] of the heatmaps of those members that have some.

        Raises:
            ValueError: none has.
        """
        found = [member.heatmaps(local, length, batch) for member in self.members if hasattr(member, "heatmaps")]
        if not found:
            raise ValueError("no member of the ensemble has heatmaps")
        return torch.stack(found).mean(dim=0)


def fit_ensemble(heads: Sequence[Scorer], held_out: Sequence[Tensor], weights: Sequence[float]) -> EnsembleHead:
    """An ensemble whose means and standard deviations are those of held-out scores.

    Args:
        heads: the members, two or more.
        held_out: each member's scores [N, C] of the same held-out training samples; the mean and the standard
            deviation (divided by the number of scores) are over all entries.
        weights: of the members.

    Raises:
        ValueError: the numbers of heads, scores and weights differ, a member's scores are empty, not finite or all
            equal, or the labels differ.
    """
    scores = [found.double() for found in held_out]
    means = tuple(float(found.mean()) for found in scores)
    deviations = tuple(float(found.std(correction=0)) for found in scores)
    return EnsembleHead(tuple(heads), means, deviations, tuple(float(weight) for weight in weights))


def _without_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
