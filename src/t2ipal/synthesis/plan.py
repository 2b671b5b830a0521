"""Which image lies in which shard, its key and its seed: pure functions of the captions and the settings.

Images are numbered over all captions in file order, replica after replica: image ``replica * captions + index``.
So more replicas only append. A seed is a hash of the image's own identity; no shard, batch or device enters it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

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


def shard_samples(captions: Sequence[Caption], replicas: int, shard_size: int, shard: int) -> list[Sample]:
    """The samples of shard number ``shard``, in the order in which they are drawn and stored.

    Raises:
        UserError: the plan has no such shard.
    """
    images = len(captions) * replicas
    numbers = range(shard * shard_size, min((shard + 1) * shard_size, images))
    if shard < 0 or not numbers:
        raise UserError(f"shard {shard} does not exist: {images} images fill {-(-images // shard_size)} shards")
    return [Sample(captions[number % len(captions)], number // len(captions)) for number in numbers]
