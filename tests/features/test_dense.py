from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from t2ipal.errors import UserError
from t2ipal.features.dense import image_features, text_features


def test_global_features_are_the_towers_own_output(towers: SimpleNamespace) -> None:
    for model, size in ((towers.resnet, 64), (towers.vit, 32)):
        images = torch.randn(3, 3, size, size)
        global_, local, (rows, columns) = image_features(model.visual, images, attnpool_positional=False)
        assert torch.allclose(global_, model.visual(images), atol=1e-5)
        assert local.shape == (3, rows * columns, 24)


@pytest.mark.parametrize("positional", [False, True])
def test_resnet_local_is_an_attention_pool_that_sees_one_position(towers: SimpleNamespace, positional: bool) -> None:
    """Independent way: the value and output projections by hand, from the last stage's map caught by a hook."""
    visual, caught = towers.resnet.visual, {}
    handle = visual.layer4.register_forward_hook(lambda *call: caught.update(map=call[2]))
    images = torch.randn(2, 3, 64, 64)
    _, local, grid = image_features(visual, images, positional)
    handle.remove()
    pool = visual.attnpool
    assert grid == tuple(caught["map"].shape[2:])
    for row in range(grid[0]):
        for column in range(grid[1]):
            index = row * grid[1] + column
            x = caught["map"][:, :, row, column]
            if positional:
                x = x + pool.positional_embedding[1 + index]
            value = x @ pool.v_proj.weight.T + pool.v_proj.bias
            expected = value @ pool.c_proj.weight.T + pool.c_proj.bias
            assert torch.allclose(local[:, index], expected, atol=1e-5)


def test_vit_local_is_the_last_block_with_attention_confined_to_each_token(towers: SimpleNamespace) -> None:
    """Independent way: run the real last block under a mask that lets a token see nothing but itself."""
    visual, caught = towers.vit.visual, {}
    last = visual.transformer.resblocks[-1]
    handle = last.register_forward_pre_hook(lambda _, inputs: caught.update(tokens=inputs[0]))
    images = torch.randn(2, 3, 32, 32)
    visual(images)
    handle.remove()
    _, local, grid = image_features(visual, images, attnpool_positional=False)
    tokens = caught["tokens"]
    alone = torch.full((tokens.shape[1],) * 2, float("-inf")).fill_diagonal_(0)
    expected = visual.ln_post(last(tokens, attn_mask=alone))[:, 1:] @ visual.proj
    assert grid == (4, 4)
    assert torch.allclose(local, expected, atol=1e-5)


def test_text_global_is_encode_text_and_local_ends_with_it(towers: SimpleNamespace) -> None:
    tokens = torch.zeros(3, 16, dtype=torch.long)
    for row, length in enumerate((4, 9, 16)):
        tokens[row, : length - 1] = torch.randint(1, 60, (length - 1,))
        tokens[row, length - 1] = 63
    global_, local, length = text_features(towers.vit, tokens)
    assert length.tolist() == [4, 9, 16]
    assert torch.allclose(global_, towers.vit.encode_text(tokens), atol=1e-5)
    for row in range(3):
        assert torch.allclose(local[row, length[row] - 1], global_[row], atol=1e-6)
        assert not local[row, length[row] :].any()


def test_other_image_towers_are_refused_by_name() -> None:
    with pytest.raises(UserError, match="tower of type Linear"):
        image_features(torch.nn.Linear(2, 2), torch.zeros(1, 3, 8, 8), attnpool_positional=False)


def test_other_text_towers_are_refused(towers: SimpleNamespace) -> None:
    with pytest.raises(UserError, match="not CLIP's causal transformer"):
        text_features(SimpleNamespace(text_pool_type="last", token_embedding=None), torch.zeros(1, 4).long())


def test_local_features_differ_between_positions(towers: SimpleNamespace) -> None:
    _, local, _ = image_features(towers.vit.visual, torch.randn(1, 3, 32, 32), attnpool_positional=False)
    unit = functional.normalize(local[0], dim=-1)
    assert (unit @ unit.T).fill_diagonal_(0).max() < 0.999
