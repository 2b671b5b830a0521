"""Local features in CLIP's joint space: one vector per position of the last feature map (method.md §3).

What a tower's pooling and projection make of a single position, on its own, lies in the joint space; so do a
transformer's tokens whose last block attends to nothing but themselves. Raw positions do not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from t2ipal.errors import UserError

Grid = tuple[int, int]


def image_features(visual: Any, images: Tensor, attnpool_positional: bool) -> tuple[Tensor, Tensor, Grid]:
    """Global [N, D] and local [N, L, D] features of preprocessed images [N, 3, H, W], and the grid of L.

    ``attnpool_positional`` concerns CLIP's ResNet alone. The ways of timm's towers are reconstruction.

    Raises:
        UserError: the tower is none of CLIP's ResNet, CLIP's ViT, or timm's ConvNeXt and ViTs that are pooled by
            attention or their class token.
    """
    if hasattr(visual, "attnpool") and hasattr(visual, "layer4"):
        return _resnet(visual, images, attnpool_positional)
    if _is_clip_vit(visual):
        return _vit(visual, images)
    trunk: Any = getattr(visual, "trunk", None)
    if type(trunk).__name__ == "ConvNeXt":
        return _convnext(visual, images)
    is_vit = type(trunk).__name__ in ("VisionTransformer", "Eva")
    if is_vit and (_attention_pool(trunk) is not None or trunk.global_pool == "token"):
        return _timm_vit(visual, images)
    raise UserError(
        f"features.backbone has an image tower of type {type(trunk or visual).__name__}, for which dense features are "
        "not defined; choose a CLIP ResNet (RN50, RN101, ...) or a CLIP ViT (ViT-B-32, ViT-B-16, ViT-L-14)"
    )


def _is_clip_vit(visual: Any) -> bool:
    own = hasattr(visual, "transformer") and hasattr(visual, "conv1")
    return own and getattr(visual, "attn_pool", None) is None and visual.pool_type in ("tok", "avg")


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
    """The tower's output, and patch tokens whose last block attends to nothing but themselves (MaskCLIP).

    Where the class token is the output, the last block runs once for both: what it makes of a token depends on no
    other token but through attention.
    """
    tokens = visual._embeds(images)
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        tokens = block(tokens)
    plain = isinstance(getattr(last, "attn", None), nn.MultiheadAttention)
    found = _first_to_all(last, tokens) if plain else last(tokens, attn_mask=_to_self(tokens, besides=1))
    pooled, _ = visual._pool(found if visual.pool_type == "tok" else last(tokens))
    patches = visual.ln_post(found)[:, 1:]
    if visual.proj is not None:
        pooled, patches = pooled @ visual.proj, patches @ visual.proj
    rows, columns = (images.shape[2] // visual.patch_size[0], images.shape[3] // visual.patch_size[1])
    return pooled, patches, (rows, columns)


def _first_to_all(block: Any, tokens: Tensor) -> Tensor:
    """The block's output where the first token attends to all and each other one to itself, whose value it thus gets.

    So attention is computed of one token only: with a mask, the block would take a quarter longer than without.
    """
    x, attention, width = block.ln_1(tokens), block.attn, tokens.shape[-1]
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    query = functional.linear(x[:, :1], weight[:width], bias[:width])
    keys, values = functional.linear(x, weight[width:], bias[width:]).chunk(2, dim=-1)
    q, k, v = (part.view(*part.shape[:2], attention.num_heads, -1).transpose(1, 2) for part in (query, keys, values))
    first = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    tokens = tokens + block.ls_1(attention.out_proj(torch.cat([first, values[:, 1:]], dim=1)))
    result: Tensor = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
    return result


def _to_self(tokens: Tensor, besides: int) -> Tensor:
    """What is added to attention, so that each token sees itself alone, besides the first ones, which see all."""
    mask = torch.full((tokens.shape[1],) * 2, -torch.inf, dtype=tokens.dtype, device=tokens.device).fill_diagonal_(0)
    mask[:besides] = 0
    return mask


def _convnext(visual: Any, images: Tensor) -> tuple[Tensor, Tensor, Grid]:
    """The tower's output, and its head applied to each position as if the map were that one (as FC-CLIP does)."""
    x = visual.trunk.forward_features(images)
    rows, columns = x.shape[2:]
    alone = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1], 1, 1)
    local = visual.head(visual.trunk.forward_head(alone))
    return visual.head(visual.trunk.forward_head(x)), local.reshape(len(images), -1, local.shape[-1]), (rows, columns)


def _timm_vit(visual: Any, images: Tensor) -> tuple[Tensor, Tensor, Grid]:
    """The tower's output, and each patch token pooled alone.

    Pooled by attention, a token that is alone goes through the pool's value path, as in CLIP's ResNet. Pooled by
    the class token, each patch takes its place, after a last block in which it attended to nothing but itself.
    """
    trunk, pool = visual.trunk, _attention_pool(visual.trunk)
    tokens, (args, kwargs) = _watched(trunk, images)
    pooled = visual.head(trunk.forward_head(tokens))
    if pool is None:
        confined = {**kwargs, "attn_mask": _to_self(args[0], besides=0)}
        tokens = trunk.norm(trunk.blocks[-1](*args, **confined))
    patches = tokens[:, trunk.num_prefix_tokens :]
    alone = patches.reshape(-1, 1, patches.shape[-1])
    alone = alone[:, 0] if pool is None else pool(alone)
    local = visual.head(trunk.head(trunk.head_drop(trunk.fc_norm(alone))))
    rows, columns = trunk.patch_embed.grid_size
    return pooled, local.reshape(len(images), -1, local.shape[-1]), (rows, columns)


def _attention_pool(trunk: Any) -> Any:
    return getattr(trunk, "attn_pool", None)


def _watched(trunk: Any, images: Tensor) -> tuple[Tensor, tuple[tuple[Any, ...], dict[str, Any]]]:
    """The trunk's tokens, and what its last block was called with: rotary embeddings are made on the way."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    handle = trunk.blocks[-1].register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    try:
        return trunk.forward_features(images), calls[-1]
    finally:
        handle.remove()


def text_features(model: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Global [N, D] (end-of-text) and local [N, T, D] features of token ids [N, T], and lengths [N].

    A length counts the tokens up to and including end-of-text; local features beyond it are zero.

    Raises:
        UserError: the text tower is not CLIP's causal transformer with an end-of-text token.
    """
    text = getattr(model, "text", model)
    pool_type = getattr(text, "text_pool_type", getattr(text, "pool_type", None))
    causal = getattr(text, "attn_mask", None) is not None and getattr(text, "cls_emb", None) is None
    if pool_type not in ("argmax", "eos") or not hasattr(text, "token_embedding") or not causal:
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
