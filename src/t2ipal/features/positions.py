"""Positional embeddings of a tower for another input size than its own, interpolated over the grid of positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from t2ipal.features.towers import STRIDE

Grid = tuple[int, int]


def resize(visual: Any, size: int) -> None:
    """Make an open_clip image tower read squares of ``size`` pixels, a multiple of its patch or stride.

    Both CLIP's ViT and the attention pool of its ResNet hold one embedding for the whole (class token, mean token),
    which is kept, and one for each position. open_clip does this for the ViT alone.
    """
    if hasattr(visual, "trunk"):
        visual.set_input_size(size)
        return
    if hasattr(visual, "attnpool"):
        pool, old, new = visual.attnpool, visual.image_size // STRIDE, size // STRIDE
        pool.positional_embedding = _parameter(pool.positional_embedding, (old, old), (new, new))
        visual.image_size = size
        return
    grid = (size // visual.patch_size[0], size // visual.patch_size[1])
    visual.positional_embedding = _parameter(visual.positional_embedding, visual.grid_size, grid)
    visual.grid_size, visual.image_size = grid, (size, size)


def _parameter(embedding: nn.Parameter, old: Grid, new: Grid) -> nn.Parameter:
    return nn.Parameter(interpolated(embedding.detach(), old, new), requires_grad=embedding.requires_grad)


def interpolated(embedding: Tensor, old: Grid, new: Grid) -> Tensor:
    """Embeddings [1 + R' C', d] of grid ``new`` from those of grid ``old``, [1 + R C, d]; the first is kept.

    Bicubic and antialiased, as open_clip's ``resize_pos_embed``; equal grids give the same numbers.
    """
    if old == new:
        return embedding
    whole, positions = embedding[:1], embedding[1:]
    as_image = positions.T.reshape(1, -1, *old).float()
    resized = functional.interpolate(as_image, size=new, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([whole, resized[0].flatten(1).T.to(embedding.dtype)])
