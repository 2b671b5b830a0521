"""The latent space of the small text-to-image model: an AutoencoderKL that maps 64x64x3 to 16x16x4."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from t2ipal.openmoji.scenes import SIMPLE_STYLE, Pixels, render, sample_scene
from t2ipal.pack.sittings import Trainee

LATENT_CHANNELS = 4
CROP = 32
KL_WEIGHT = 1e-5

CONFIG: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [16, 32, 64],
    "layers_per_block": 1,
    "latent_channels": LATENT_CHANNELS,
    "norm_num_groups": 8,
    "sample_size": 64,
    "mid_block_add_attention": False,
}


def to_signed(images: list[Pixels]) -> Tensor:
    """[N, H, W, 3] uint8 -> [N, 3, H, W] in -1..1, the range of diffusers' autoencoders."""
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return batch.contiguous(memory_format=torch.channels_last)


def simple_images(rng: np.random.Generator, count: int) -> Tensor:
    """Scenes of the generator's world, [N, 3, 64, 64] in -1..1."""
    return to_signed([render(sample_scene(rng, "train", SIMPLE_STYLE)) for _ in range(count)])


class AutoencoderTrainee(Trainee):
    """Absolute error, error of the image gradients (edges stay crisp), and a slight KL term."""

    name = "vae"
    batch = 16
    learning_rate = 1.5e-3
    weight_decay = 0.0
    warmup = 50
    average = 0.995

    def __init__(self) -> None:
        from diffusers import AutoencoderKL

        torch.manual_seed(0)
        self.module = AutoencoderKL(**CONFIG).to(memory_format=torch.channels_last)

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """See the class."""
        images = simple_images(rng, self.batch // 2)
        crops = []
        for image in images:
            for _ in range(2):
                top, left = rng.integers(0, 64 - CROP + 1, 2)
                crops.append(image[:, top : top + CROP, left : left + CROP])
        target = torch.stack(crops).contiguous(memory_format=torch.channels_last)
        posterior = self.module.encode(target).latent_dist
        decoded = self.module.decode(posterior.sample()).sample
        pixel = functional.l1_loss(decoded, target)
        edges = functional.l1_loss(decoded.diff(dim=2), target.diff(dim=2))
        edges = edges + functional.l1_loss(decoded.diff(dim=3), target.diff(dim=3))
        divergence = posterior.kl().mean() / target[0].numel()
        return pixel + 0.5 * edges + KL_WEIGHT * 192 * divergence, {"pixel": pixel.item(), "kl": divergence.item()}

    @torch.inference_mode()
    def measure(self) -> dict[str, float]:
        """Peak signal-to-noise ratio in dB of whole scenes."""
        images = simple_images(np.random.default_rng(7), 64)
        decoded = self.module.decode(self.module.encode(images).latent_dist.mode()).sample
        error = functional.mse_loss(decoded.clamp(-1, 1), images)
        return {"psnr": float(10 * torch.log10(4 / error))}


@torch.inference_mode()
def latent_scale(autoencoder: Any) -> float:
    """Factor that gives latents unit variance (diffusers' ``scaling_factor``)."""
    images = simple_images(np.random.default_rng(8), 256)
    return float(1 / autoencoder.encode(images).latent_dist.mode().std())
