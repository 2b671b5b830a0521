"""Local features in CLIP's joint space: one vector per position of the last feature map (method.md §3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from t2ipal.errors import UserError

Grid = tuple[int, int]


def image_features(visual: Any, images: Tensor, attnpool_positional: bool) -> tuple[Tensor, Tensor, Grid]:
    """Global [N, D] and local [N, L, D] features of preprocessed images [N, 3, H, W], and the grid of L.

    Raises:
        UserError: the tower is neither a CLIP ResNet with attention pool nor a CLIP ViT.
    """
    if hasattr(visual, "attnpool") and hasattr(visual, "layer4"):
        return _resnet(visual, images, attnpool_positional)
    if hasattr(visual, "transformer") and hasattr(visual, "conv1") and getattr(visual, "attn_pool", None) is None:
        return _vit(visual, images)
    raise UserError(
        f"features.backbone has an image tower of type {type(visual).__name__}, for which dense features are not "
        "defined; choose a CLIP ResNet (RN50, RN101, ...) or a CLIP ViT (ViT-B-32, ViT-B-16, ViT-L-14)"
    )


def _resnet(visual: Any, images: Tensor, positional: bool) -> tuple[Tensor, Tensor, Grid]:
    """The attention pool's output, and its value and output projections applied to each position (TaI-DPT)."""
    x = visual.stem(images)
    for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        x = stage(x)
    pool, grid = visual.attnpool, (x.shape[2], x.shape[3])
    positions = x.flatten(2).transpose(1, 2)
    if positional:
        positions = positions + pool.positional_embedding[1:].to(x.dtype)
    local = pool.c_proj(pool.v_proj(positions))
    return pool(x), local, grid


def _vit(visual: Any, images: Tensor) -> tuple[Tensor, Tensor, Grid]:
    """The tower's output, and patch tokens whose last block attends to nothing but themselves (MaskCLIP)."""
    tokens = visual._embeds(images)
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        tokens = block(tokens)
    pooled, _ = visual._pool(last(tokens))
    values = _attend_to_self(last, tokens)
    patches = visual.ln_post(values)[:, 1:]
    if visual.proj is not None:
        pooled, patches = pooled @ visual.proj, patches @ visual.proj
    rows, columns = (images.shape[2] // visual.patch_size[0], images.shape[3] // visual.patch_size[1])
    return pooled, patches, (rows, columns)


def _attend_to_self(block: Any, tokens: Tensor) -> Tensor:
    attention, width = block.attn, tokens.shape[-1]
    weight, bias = attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :]
    values = attention.out_proj(functional.linear(block.ln_1(tokens), weight, bias))
    tokens = tokens + block.ls_1(values)
    result: Tensor = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
    return result


def text_features(model: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Global [N, D] (end-of-text) and local [N, T, D] features of token ids [N, T], and lengths [N].

    A length counts the tokens up to and including end-of-text; local features beyond it are zero.

    Raises:
        UserError: the text tower is not CLIP's causal transformer with an end-of-text token.
    """
    text = getattr(model, "text", model)
    pool_type = getattr(text, "text_pool_type", getattr(text, "pool_type", None))
    if pool_type not in ("argmax", "eos") or not hasattr(text, "token_embedding"):
        raise UserError(
            f"features.backbone has a text tower (pooling {pool_type!r}) that is not CLIP's causal transformer; "
            "prompt tuning and text features need one: choose another backbone"
        )
    if pool_type == "argmax":
        end = tokens.argmax(dim=-1)
    else:
        eos: Any = getattr(text, "text_eos_id", getattr(text, "eos_id", None))
        end = torch.eq(tokens, eos).int().argmax(dim=-1)
    dtype = text.transformer.get_cast_dtype()
    x = text.token_embedding(tokens).to(dtype) + text.positional_embedding[: tokens.shape[1]].to(dtype)
    x = text.ln_final(text.transformer(x, attn_mask=text.attn_mask[: tokens.shape[1], : tokens.shape[1]]))
    projection = text.text_projection
    if projection is not None:
        x = projection(x) if callable(projection) else x @ projection
    length = end + 1
    mask = torch.arange(tokens.shape[1], device=tokens.device) < length[:, None]
    return x[torch.arange(len(x), device=x.device), end], x * mask[..., None], length
