"""Stage verification: the scores of one shard of synthetic images for every class."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from t2ipal.errors import UserError
from t2ipal.features import backbone as backbones
from t2ipal.features.backbone import Backbone
from t2ipal.labels import LabelSet
from t2ipal.progress import Progress
from t2ipal.sequences import batched
from t2ipal.shards import Sample, check, samples
from t2ipal.verification import store
from t2ipal.verification.scores import class_scores


def verify_shard(settings: dict[str, Any], shard: Path, output: Path, device: str) -> None:
    """Score every image of a shard for every class of the label set, whatever its own labels.

    Args:
        settings: of a verification unit (``t2ipal.layout.Layout.verification``).
        shard: a tar of the synthesis stage.
        output: the Parquet part to write.
        device: cpu, cuda or cuda:N.

    If the CLIP that verifies is the one that is evaluated, the log and the part say so.

    Raises:
        UserError: the backbone or label set cannot be loaded, the shard is damaged or empty, or a score is not finite.
    """
    notice = store.SAME if settings["same_as_evaluated"] else None
    if notice:
        print(f"t2ipal verification: warning: {notice}", file=sys.stderr, flush=True)
    check(shard)
    labels = LabelSet.load(settings["labels"])
    key = "features.backbone" if notice else "verification.backbone"
    # As TaI-DPT's local features are, whatever the evaluated ones keep.
    backbone = backbones.load({**settings, "attnpool_positional": False}, device, key)
    prompts = [settings["template"].format(labels.prompt_name(name)) for name in labels.names]
    embeddings = backbone.encode_text(prompts)[0]
    total = sum(1 for _ in samples(shard))
    with Progress("verification of synthetic images", total, "images") as progress:
        batches = list(_scored(backbone, embeddings, samples(shard), settings["batch_size"], progress))
    if not batches:
        raise UserError(f"shard {shard} holds no image to verify; delete it and rerun")
    found = [sample for batch, _ in batches for sample in batch]
    scores = np.concatenate([values for _, values in batches])
    if not np.isfinite(scores).all():
        raise UserError(f"scores of {shard} are not finite; set verification.precision to float32")
    meta = {
        "backbone": backbone.name,
        "pretrained": settings["pretrained"],
        "identity": backbone.identity,
        "same_as_evaluated": settings["same_as_evaluated"],
        "warning": notice,
        "labels": list(labels.names),
    }
    keys, mined = [sample.key for sample in found], [list(sample.labels) for sample in found]
    store.write(output, store.Scores(keys, mined, scores, meta))


def _scored(
    backbone: Backbone, embeddings: Tensor, found: Iterable[Sample], size: int, progress: Progress
) -> Iterator[tuple[list[Sample], NDArray[np.float32]]]:
    """Batches of samples and their scores [B, C]."""
    for batch in batched(found, size):
        global_, local, _ = backbone.encode_images([sample.image() for sample in batch])
        scores = class_scores(global_, local, embeddings).numpy()
        progress.advance(len(batch))
        yield batch, scores
