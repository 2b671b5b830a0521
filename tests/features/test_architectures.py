"""Dense features of open_clip's own architectures, against algebra on what hooks catch in the unmodified tower."""

from __future__ import annotations

from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from open_clip.model import _build_vision_tower
from scipy.special import ndtr
from torch.nn import Module

from t2ipal.errors import UserError
from t2ipal.features import catalogue, positions, towers
from t2ipal.features.dense import image_features
from t2ipal.learning.tower import TextTower

Array = NDArray[np.float64]


def tower(config: dict[str, Any], width: int = 24, quick: bool = False) -> Any:
    """An image tower of random weights in evaluation mode; no scale, bias or embedding is left at zero or one."""
    torch.manual_seed(0)
    visual = _build_vision_tower(width, dict(config), quick).eval().requires_grad_(False)
    for name, parameter in visual.named_parameters():
        if parameter.ndim == 1 or "embed" in name:
            parameter.add_(0.1 * torch.randn_like(parameter))
    return visual


def architecture(name: str) -> Any:
    config = catalogue.config(name)
    assert config is not None
    return tower(config["vision_cfg"], config["embed_dim"], config.get("quick_gelu", False))


def images(size: int, count: int = 2) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(size).normal(size=(count, 3, size, size)), dtype=torch.float32)


def caught(module: Module, visual: Any, pixels: torch.Tensor) -> tuple[Array, torch.Tensor]:
    """What went into a part of the tower, in float64, and what came out of the tower."""
    found: list[torch.Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    output = visual(pixels)
    handle.remove()
    return array(found[0]), output


def array(tensor: torch.Tensor) -> Array:
    return tensor.detach().numpy().astype(np.float64)


def linear(x: Array, module: Any) -> Array:
    bias = 0 if module.bias is None else array(module.bias)
    projected: Array = x @ array(module.weight).T + bias
    return projected


def norm(x: Array, module: Any) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    unit: Array = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + module.eps)
    return unit * array(module.weight) + array(module.bias)


def activation(x: Array, quick: bool) -> Array:
    return x / (1 + np.exp(-1.702 * x)) if quick else x * ndtr(x)


def close(found: torch.Tensor, expected: Array) -> bool:
    return found.shape == expected.shape and bool(np.abs(array(found) - expected).max() < 1e-5 * np.abs(expected).max())


def check_resnet(visual: Any, pixels: torch.Tensor) -> None:
    """The last map at the attention pool's door, through its value and output projections."""
    last, output = caught(visual.attnpool, visual, pixels)
    flat = last.reshape(*last.shape[:2], -1).transpose(0, 2, 1)
    global_, local, grid = image_features(visual, pixels, attnpool_positional=False)
    assert torch.equal(global_, output)
    assert grid == last.shape[2:]
    assert close(local, linear(linear(flat, visual.attnpool.v_proj), visual.attnpool.c_proj))


def check_vit(visual: Any, pixels: torch.Tensor, quick: bool = False) -> None:
    """The last block with each token's value in place of attention, norm and projection."""
    block = visual.transformer.resblocks[-1]
    tokens, output = caught(block, visual, pixels)
    scale = [array(part.gamma) if hasattr(part, "gamma") else 1.0 for part in (block.ls_1, block.ls_2)]
    width = tokens.shape[-1]
    value = norm(tokens, block.ln_1) @ array(block.attn.in_proj_weight)[2 * width :].T
    value = linear(value + array(block.attn.in_proj_bias)[2 * width :], block.attn.out_proj)
    tokens = tokens + scale[0] * value
    hidden = activation(linear(norm(tokens, block.ln_2), block.mlp.c_fc), quick)
    tokens = tokens + scale[1] * linear(hidden, block.mlp.c_proj)
    global_, local, grid = image_features(visual, pixels, attnpool_positional=False)
    assert close(global_, array(output))
    assert grid == visual.grid_size
    assert close(local, norm(tokens, visual.ln_post)[:, 1:] @ array(visual.proj))


@pytest.mark.slow
@pytest.mark.parametrize("size", [224, 448])
def test_dense_features_of_rn50(size: int) -> None:
    visual = architecture("RN50-quickgelu")
    positions.resize(visual, size)
    check_resnet(visual, images(size, 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"), [("ViT-B-32", 224), ("ViT-B-32-quickgelu", 224), ("ViT-B-16", 224), ("ViT-B-16", 336)]
)
def test_dense_features_of_vit_b(name: str, size: int) -> None:
    visual = architecture(name)
    positions.resize(visual, size)
    check_vit(visual, images(size, 1), quick=name.endswith("quickgelu"))


@pytest.mark.parametrize("size", [64, 128])
def test_dense_features_of_a_small_resnet(size: int) -> None:
    visual = tower({"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "head_width": 8})
    positions.resize(visual, size)
    check_resnet(visual, images(size))


VIT = {"image_size": 32, "patch_size": 8, "layers": 2, "width": 32, "head_width": 8}


@pytest.mark.parametrize("size", [32, 48])
@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("changes", [{}, {"no_ln_pre": True}, {"ls_init_value": 0.3}, {"pool_type": "avg"}])
def test_dense_features_of_small_vits(changes: dict[str, Any], quick: bool, size: int) -> None:
    visual = tower(VIT | changes, quick=quick)
    positions.resize(visual, size)
    check_vit(visual, images(size), quick)


@pytest.mark.parametrize(
    "changes",
    [
        {"pool_type": "avg", "final_ln_after_pool": True},
        {"scale_heads": True, "scale_attn_inner": True, "scale_attn": True, "scale_fc": True, "qk_norm": True},
    ],
)
def test_rarer_vits_are_their_last_block_under_a_mask_of_all_others(changes: dict[str, Any]) -> None:
    visual, pixels = tower(VIT | changes), images(32)
    block = visual.transformer.resblocks[-1]
    tokens, output = caught(block, visual, pixels)
    alone = torch.full((tokens.shape[1],) * 2, -torch.inf).fill_diagonal_(0)
    expected = visual.ln_post(block(torch.as_tensor(tokens).float(), attn_mask=alone))[:, 1:] @ visual.proj
    global_, local, _ = image_features(visual, pixels, attnpool_positional=False)
    assert close(global_, array(output))
    assert close(local, array(expected))


def timm_tower(name: str, size: int, pool: str, proj: str | None) -> Any:
    visual = tower({"timm_model_name": name, "timm_pool": pool, "timm_proj": proj, "image_size": size}, 16)
    positions.resize(visual, size)
    return visual


def test_dense_features_of_a_vit_that_is_pooled_by_attention() -> None:
    """Perception Encoder: a token alone in the pool is its value, projected, and the pool's own network."""
    visual, pixels = timm_tower("vit_pe_core_tiny_patch16_384", 64, "map", None), images(64)
    pool, head = visual.trunk.attn_pool, visual.trunk.head
    tokens, output = caught(pool, visual, pixels)
    value = linear(tokens, pool.kv)[..., tokens.shape[-1] :]
    x = linear(value, pool.proj)
    x = x + linear(activation(linear(norm(x, pool.norm), pool.mlp.fc1), False), pool.mlp.fc2)
    global_, local, grid = image_features(visual, pixels, attnpool_positional=False)
    assert torch.equal(global_, output)
    assert grid == (4, 4)
    assert close(local, linear(x, head)[:, visual.trunk.num_prefix_tokens :])


def test_dense_features_of_a_vit_of_timm_that_is_pooled_by_its_class_token() -> None:
    """EVA-02: the value path of the last block, then its gated network."""
    visual, pixels = timm_tower("eva02_tiny_patch14_224", 56, "token", None), images(56)
    trunk, block = visual.trunk, visual.trunk.blocks[-1]
    tokens, output = caught(block, visual, pixels)
    width, attention = tokens.shape[-1], block.attn
    value = norm(tokens, block.norm1) @ array(attention.qkv.weight)[2 * width :].T + array(attention.v_bias)
    tokens = tokens + linear(value, attention.proj)
    gate, hidden = np.split(linear(norm(tokens, block.norm2), block.mlp.fc1), 2, axis=-1)
    tokens = tokens + linear(gate / (1 + np.exp(-gate)) * hidden, block.mlp.fc2)
    global_, local, grid = image_features(visual, pixels, attnpool_positional=False)
    assert torch.equal(global_, output)
    assert grid == (4, 4)
    assert close(local, linear(norm(tokens, trunk.norm), trunk.head)[:, 1:])


@pytest.mark.parametrize("proj", ["linear", "mlp"])
def test_dense_features_of_a_convnext(proj: str) -> None:
    """The head's norm and the projection of each position of the last map."""
    visual, pixels = timm_tower("convnext_atto", 96, "", proj), images(96)
    head = visual.trunk.head
    last, output = caught(head, visual, pixels)
    x = norm(last.reshape(*last.shape[:2], -1).transpose(0, 2, 1), head.norm)
    if proj == "mlp":
        x = linear(activation(linear(x, visual.head.mlp.fc1), False), visual.head.mlp.fc2)
    else:
        x = linear(x, visual.head.proj)
    global_, local, grid = image_features(visual, pixels, attnpool_positional=False)
    assert torch.equal(global_, output)
    assert grid == (3, 3)
    assert close(local, x)


ONE_OF_EACH = (
    "RN50x4",
    "ViT-L-14-336",
    "ViT-M-16-alt",
    "EVA01-g-14",
    "MobileCLIP-B",
    "PE-Core-B-16",
    "convnext_large_d",
)
REFUSED = ("ViT-B-16-SigLIP2-256", "coca_ViT-B-32", "ViT-L-14-CLIPA", "MobileCLIP2-S0", "ViTamin-S")


@pytest.mark.parametrize("name", [*ONE_OF_EACH, *REFUSED])
def test_what_the_configuration_says_of_a_tower_is_so(name: str) -> None:
    agree(name)


@pytest.mark.slow
def test_what_the_configurations_say_of_towers_is_so_for_all_of_open_clips() -> None:
    for name in catalogue.models():
        if "hf_model_name" not in (catalogue.config(name) or {})["text_cfg"]:
            agree(name)


def agree(name: str) -> None:
    """A model that is let through has features of both towers, at its own and another size; another raises."""
    config = catalogue.config(name)
    assert config is not None
    with torch.device("meta"):
        model: Any = open_clip.create_model(name, device="meta").eval()

    def features(size: int) -> None:
        pixels = torch.zeros(1, 3, size, size, device="meta")
        global_, local, (rows, columns) = image_features(model.visual, pixels, attnpool_positional=False)
        assert global_.shape == (1, config["embed_dim"])
        assert local.shape == (1, rows * columns, config["embed_dim"])

    def use() -> None:
        TextTower.of(model)
        features(config["vision_cfg"]["image_size"])
        assert towers.size_problem(config, 448) is None
        positions.resize(model.visual, 448)
        features(448)

    if towers.misfit(config) is None:
        use()
        return
    with pytest.raises(UserError):
        use()
