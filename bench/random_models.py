"""Text-to-image pipelines of random weights: of the shape of Stable Diffusion 1.5, or tiny."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def tokenizer(length: int) -> Any:
    """A CLIP tokenizer of single bytes: what the tokens are does not matter here."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=length)


def random_model(shape: str, directory: Path) -> None:
    """Save a StableDiffusionPipeline of random weights, of the shape of Stable Diffusion 1.5 or tiny."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    big = shape == "sd15"
    width, tokens = (768, tokenizer(77)) if big else (32, tokenizer(77))
    text = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=12 if big else 1,
        num_attention_heads=12 if big else 2,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    blocks = 4 if big else 2
    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(320, 640, 1280, 1280) if big else (32, 64),
        down_block_types=("CrossAttnDownBlock2D",) * (blocks - 1) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (blocks - 1),
        layers_per_block=2 if big else 1,
        attention_head_dim=8,
        cross_attention_dim=width,
    )
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512) if big else (32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2 if big else 1,
        latent_channels=4,
        sample_size=512,
        scaling_factor=0.18215,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokens,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(torch.float16).save_pretrained(directory)
