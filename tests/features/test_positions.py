from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP, resize_pos_embed

from t2ipal.features.positions import interpolated, resize

TEXT = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}


def model(family: str, size: int) -> Any:
    torch.manual_seed(0)
    vision: dict[str, Any] = {"width": 16, "head_width": 8, "image_size": size}
    vision |= {"layers": [1, 1, 1, 1]} if family == "resnet" else {"layers": 2, "patch_size": 8}
    return CLIP(8, vision, dict(TEXT)).eval().requires_grad_(False)


def cubic(distance: float) -> float:
    """Keys' kernel with a = -1/2."""
    d = abs(distance)
    if d < 1:
        return 1.5 * d**3 - 2.5 * d**2 + 1
    return -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d < 2 else 0.0


def resized_line(line: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """A line of values at another size: pixel centres, a kernel as wide as the coarser grid, weights that sum to 1."""
    ratio = len(line) / size
    stretch = max(ratio, 1.0)
    result = np.zeros((size, *line.shape[1:]))
    for i in range(size):
        weights = np.array([cubic((j + 0.5 - (i + 0.5) * ratio) / stretch) for j in range(len(line))])
        result[i] = np.tensordot(weights / weights.sum(), line, axes=1)
    return result


@pytest.mark.parametrize(("old", "new"), [((7, 7), (14, 14)), ((7, 7), (10, 10)), ((8, 8), (3, 3)), ((4, 6), (5, 9))])
def test_positions_are_interpolated_and_the_first_is_kept(old: tuple[int, int], new: tuple[int, int]) -> None:
    values = np.random.default_rng(0).normal(size=(1 + old[0] * old[1], 5))
    found = interpolated(torch.as_tensor(values, dtype=torch.float32), old, new).numpy()
    rows = resized_line(values[1:].reshape(*old, 5), new[0])
    expected = resized_line(rows.transpose(1, 0, 2), new[1]).transpose(1, 0, 2)
    np.testing.assert_array_equal(found[0], values[0].astype(np.float32))
    np.testing.assert_allclose(found[1:], expected.reshape(-1, 5), atol=1e-5)


def test_vits_are_resized_as_open_clip_resizes_them() -> None:
    ours, theirs = model("vit", 32), model("vit", 56)
    state = ours.state_dict()
    resize_pos_embed(state, theirs)
    theirs.load_state_dict(state)
    resize(ours.visual, 56)
    pixels = torch.randn(2, 3, 56, 56)
    assert torch.equal(ours.encode_image(pixels), theirs.encode_image(pixels))
    assert (ours.visual.grid_size, ours.visual.image_size) == (theirs.visual.grid_size, theirs.visual.image_size)


@pytest.mark.parametrize(("family", "size"), [("resnet", 64), ("vit", 32)])
def test_at_its_own_size_a_tower_is_left_as_it_is(family: str, size: int) -> None:
    found, expected = model(family, size), model(family, size)
    resize(found.visual, size)
    assert all(torch.equal(*pair) for pair in zip(found.parameters(), expected.parameters(), strict=True))


def test_the_global_feature_of_a_resized_resnet_is_the_pools_by_hand() -> None:
    """Attention of the mean token over all positions, computed in float64 from the resized embedding."""
    clip = model("resnet", 64)
    native = clip.visual.attnpool.positional_embedding.clone()
    resize(clip.visual, 96)
    pool, maps = clip.visual.attnpool, []
    handle = pool.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0].double()))
    found = clip.encode_image(torch.randn(2, 3, 96, 96))
    handle.remove()
    positions = maps[0].flatten(2).transpose(1, 2)
    tokens = torch.cat([positions.mean(dim=1, keepdim=True), positions], dim=1)
    tokens = tokens + interpolated(native, (2, 2), (3, 3)).double()

    def heads(x: torch.Tensor, projection: torch.nn.Linear) -> torch.Tensor:
        projected = x @ projection.weight.double().T + projection.bias.double()
        return projected.reshape(*x.shape[:2], pool.num_heads, -1).transpose(1, 2)

    query, key, value = heads(tokens[:, :1], pool.q_proj), heads(tokens, pool.k_proj), heads(tokens, pool.v_proj)
    attention = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(dim=-1)
    joined = (attention @ value).transpose(1, 2).reshape(2, -1)
    expected = joined @ pool.c_proj.weight.double().T + pool.c_proj.bias.double()
    assert torch.allclose(found.double(), expected, atol=1e-5)
