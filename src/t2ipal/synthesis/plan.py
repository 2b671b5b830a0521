"""Which image lies in which shard, its key and its seed: pure functions of the captions and the settings.

A seed is a hash of the image's own identity (caption, replica, attempt); no shard, batch or device enters it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from t2ipal.errors import UserError


@dataclass(frozen=True)
class Caption:
    """A row of ``captions.parquet``."""

    caption_id: str
    text: str
    labels: tuple[str, ...]
    requested: tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """One image to draw: the ``replica``-th of a caption."""

    caption: Caption
    replica: int

    @property
    def key(self) -> str:
        """Name of the sample's files in the shard, without suffix."""
        return f"{self.caption.caption_id}-{self.replica:03d}"

    def seed(self, attempt: int, base_seed: int) -> int:
        """Seed of the noise of the ``attempt``-th try to draw the image."""
        return image_seed(self.caption.caption_id, self.replica, attempt, base_seed)


def image_seed(caption_id: str, replica: int, attempt: int, base_seed: int) -> int:
    """Seed in 0..2**63-1: the first 8 bytes (big-endian) of a SHA-256 of what makes the image this one."""
    name = f"{caption_id}/{replica}/{attempt}/{base_seed}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 2**63


_NAME = re.compile(r"(\d{5,})(?:-r(\d+))?(?:-n(\d+))?")


@dataclass(frozen=True)
class Shard:
    """Which images lie in a shard: those of ``count`` captions from ``chunk * size`` on, in one replica each."""

    replica: int
    chunk: int
    count: int
    size: int

    @property
    def name(self) -> str:
        """``00012``; ``-r1`` behind it for a further replica, ``-n200`` for a last shard that is not full."""
        further = f"-r{self.replica}" if self.replica else ""
        return f"{self.chunk:05d}{further}{f'-n{self.count}' if self.count < self.size else ''}"

    @classmethod
    def of(cls, name: str, size: int) -> Shard:
        """The shard of that name, among shards of ``size`` images.

        Raises:
            UserError: no shard has that name.
        """
        match = _NAME.fullmatch(name)
        shard = match and cls(int(match[2] or 0), int(match[1]), int(match[3] or size), size)
        if not shard or shard.name != name:
            raise UserError(f"there is no shard '{name}': names are like 00012, 00012-r1 or 00012-n200")
        return shard

    def samples(self, captions: Sequence[Caption]) -> list[Sample]:
        """Its images, in the order in which they are drawn and stored.

        Raises:
            UserError: there are too few captions.
        """
        first = self.chunk * self.size
        chosen = captions[first : first + self.count]
        if len(chosen) < self.count:
            raise UserError(
                f"shard {self.name} needs the captions {first} to {first + self.count - 1}, but there are "
                f"{len(captions)}; draw the captions anew"
            )
        return [Sample(caption, self.replica) for caption in chosen]


def shards(captions: int, replicas: int, size: int) -> list[Shard]:
    """The shards of so many captions, replica after replica. More of either adds shards and changes none.

    Only the last shard of a replica may not be full. It has a name of its own, so that more captions put another
    one, which begins with the same images, beside it.
    """
    return [
        Shard(replica, chunk, min(size, captions - chunk * size), size)
        for replica in range(replicas)
        for chunk in range(-(-captions // size))
    ]


@lru_cache(maxsize=64)
def shard_names(captions: int, replicas: int, size: int) -> tuple[str, ...]:
    """The names of ``shards``; the same tuple for the many units that have the same."""
    return tuple(shard.name for shard in shards(captions, replicas, size))
