"""A text-to-image pipeline of random weights, captions and settings for the synthesis tests."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from t2ipal.settings import SynthesisSettings


@pytest.fixture(scope="session")
def pipeline_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved StableDiffusionPipeline that draws noise at 16x16 in a hundredth of a second."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, merges=[], model_max_length=16
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokens),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        mid_block_add_attention=False,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    directory = tmp_path_factory.mktemp("model") / "pipeline"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.save_pretrained(directory)
    return directory


@pytest.fixture
def settings(pipeline_dir: Path) -> dict[str, Any]:
    """Settings of a synthesis unit: 11 images of two shards, in batches of two."""
    chosen = SynthesisSettings(
        model=f"local-dir:{pipeline_dir}",
        steps=2,
        height=16,
        width=16,
        batch_size=2,
        shard_size=6,
        redraws=2,
    )
    operation = {"device", "images_per_caption", "shards_per_job"}
    identity = {"model_identity": "sha256:0123456789abcdef", "seed": 5}
    return {**chosen.model_dump(mode="json", exclude=operation), **identity}


@pytest.fixture
def write_captions() -> Callable[..., Path]:
    """Write ``count`` captions to a Parquet file."""

    def write(path: Path, count: int = 11, **changes: Any) -> Path:
        columns: dict[str, Any] = {
            "caption_id": [f"{index:016x}" for index in range(count)],
            "text": [f"a photo of a dog, number {index} · 狗" for index in range(count)],
            "labels": [["dog"] if index % 2 else ["cat", "dog"] for index in range(count)],
            "requested": [["dog"]] * count,
            "source": ["template"] * count,
        }
        columns |= changes
        pq.write_table(pa.table({name: values for name, values in columns.items() if values is not None}), path)
        return path

    return write


@pytest.fixture
def captions(tmp_path: Path, write_captions: Callable[..., Path]) -> Path:
    """Eleven captions: shard 0 holds six of them, shard 1 five (its last batch is half full)."""
    return write_captions(tmp_path / "captions.parquet")
