from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch


@pytest.fixture(scope="session")
def towers() -> SimpleNamespace:
    """Randomly initialised CLIPs of both families, small, in evaluation mode."""
    from open_clip.model import CLIP

    torch.manual_seed(0)
    text = {"context_length": 16, "vocab_size": 64, "width": 32, "heads": 2, "layers": 2}
    resnet = CLIP(
        embed_dim=24,
        vision_cfg={"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8},
        text_cfg=dict(text),
    )
    vit = CLIP(
        embed_dim=24,
        vision_cfg={"image_size": 32, "patch_size": 8, "layers": 3, "width": 32, "head_width": 8},
        text_cfg=dict(text),
    )
    for model in (resnet, vit):
        model.eval().requires_grad_(False)
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return SimpleNamespace(resnet=resnet, vit=vit)
