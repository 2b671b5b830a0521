"""Towers in half precision, and what that costs: how far their features turn from those in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from t2ipal.features.backbone import Backbone

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# open_clip's names of them: in "fp16" and "bf16" its layer norms compute in float32, as OpenAI's do.
NAMES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


def cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Round, in place, every parameter and buffer that open_clip left in float32, but for those of normalisations.

    On the CLIP of the pack, statistics of batch norms in bfloat16 make the mean error ten times as large.
    """
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.modules.batchnorm._BatchNorm):
            continue
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)


def error(backbone: Backbone, reference: Backbone, pixels: Tensor) -> dict[str, float]:
    """How far features turn: 1 - cosine between those of ``backbone`` and of ``reference``, the same CLIP in float32.

    Args:
        backbone: the CLIP in half precision.
        reference: the CLIP in float32.
        pixels: images [N, 3, H, W] as ``Backbone.transform`` makes them; a few are enough.

    Returns:
        The number of images, and maximum and mean over them of the error of global features, and over all of their
        positions of local features.

    Raises:
        UserError: features are not finite.
    """
    found, expected = backbone.encode_pixels(pixels), reference.encode_pixels(pixels)
    report: dict[str, float] = {"images": len(pixels)}
    for name, one, other in zip(("global", "local"), found[:2], expected[:2], strict=True):
        turned = 1 - nn.functional.cosine_similarity(one.double(), other.double(), dim=-1)
        report |= {f"{name}_cosine_error_max": float(turned.max()), f"{name}_cosine_error_mean": float(turned.mean())}
    return report
