"""The small text-to-image model: a latent UNet with its own text encoder, trained by flow matching.

The layout is that of a diffusers ``StableDiffusionPipeline``; the sampler is DPM-Solver++ with flow sigmas.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from t2ipal.io import atomic_path
from t2ipal.openmoji.scenes import SIMPLE_STYLE, Scene, render, sample_scene
from t2ipal.pack.autoencoder import LATENT_CHANNELS, to_signed
from t2ipal.pack.sittings import Trainee
from t2ipal.pack.texts import chatter, dense_caption
from t2ipal.pack.tokenizer import CONTEXT_LENGTH

TRAIN_TIMESTEPS = 1000
UNCONDITIONAL = 0.1
TEXT_WIDTH = 128

UNET: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "layers_per_block": 1,
    "block_out_channels": [32, 96, 160],
    "down_block_types": ["DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": 4,
    "norm_num_groups": 16,
}
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": TRAIN_TIMESTEPS,
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
}


def training_scene(index: int) -> Scene:
    """The ``index``-th scene of the generator's training set."""
    return sample_scene(np.random.default_rng([11, index]), "train", SIMPLE_STYLE)


@torch.inference_mode()
def encode_scenes(autoencoder: Any, count: int, path: Path, batch: int = 250) -> None:
    """Write the latents of ``count`` training scenes to ``path``: float16 [count, 4, 16, 16], unscaled."""
    with atomic_path(path) as partial, partial.open("wb") as handle:
        for start in range(0, count, batch):
            images = to_signed([render(training_scene(i)) for i in range(start, min(start + batch, count))])
            latents = autoencoder.encode(images).latent_dist.mode()
            handle.write(latents.half().contiguous().numpy().tobytes())


def _caption(rng: np.random.Generator, index: int) -> str:
    return chatter(rng, dense_caption(rng, training_scene(index)))


class TextToImage(nn.Module):
    """The two parts that are trained together."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel

        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=TEXT_WIDTH,
                intermediate_size=2 * TEXT_WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=CONTEXT_LENGTH,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        self.unet = UNet2DConditionModel(**UNET).to(memory_format=torch.channels_last)


class GeneratorTrainee(Trainee):
    """Flow matching (Lipman et al., 2023) with logit-normal times (Esser et al., 2024)."""

    name = "generator"
    batch = 32
    learning_rate = 7e-4
    weight_decay = 0.01
    average = 0.999

    def __init__(self, tokenizer: Path, latents: Path, scale: float) -> None:
        from transformers import CLIPTokenizer

        torch.manual_seed(0)
        self.tokenizer = CLIPTokenizer.from_pretrained(tokenizer)
        self.module = TextToImage(self.tokenizer)
        self.latents = np.memmap(latents, np.float16, "r").reshape(-1, LATENT_CHANNELS, 16, 16)
        self.scale = scale

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """See the class."""
        chosen = rng.integers(len(self.latents), size=self.batch)
        texts = ["" if rng.random() < UNCONDITIONAL else _caption(rng, int(index)) for index in chosen]
        clean = torch.from_numpy(self.latents[chosen].astype(np.float32)) * self.scale
        noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
        time = torch.from_numpy(1 / (1 + np.exp(-rng.standard_normal(self.batch, dtype=np.float32))))
        mix = time.view(-1, 1, 1, 1)
        noisy = ((1 - mix) * clean + mix * noise).contiguous(memory_format=torch.channels_last)
        ids = self.tokenizer(
            texts, max_length=CONTEXT_LENGTH, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        context = self.module.text_encoder(ids).last_hidden_state
        velocity = self.module.unet(noisy, time * TRAIN_TIMESTEPS, context).sample
        return functional.mse_loss(velocity, noise - clean), {}


def pipeline(module: TextToImage, autoencoder: Any, tokenizer: Any, scale: float) -> Any:
    """A ``StableDiffusionPipeline`` of the parts; saved by ``save_pretrained``."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    autoencoder.register_to_config(scaling_factor=scale)
    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=module.text_encoder,
        tokenizer=tokenizer,
        unet=module.unet,
        scheduler=DPMSolverMultistepScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
