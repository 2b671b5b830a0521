"""From training states to the models that are shipped: averaged weights, half precision, the public layouts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from t2ipal.errors import UserError
from t2ipal.pack import autoencoder, clip, generator


def averaged(directory: Path, name: str) -> dict[str, Tensor]:
    """The averaged weights in the state of trainee ``name``.

    Raises:
        UserError: it has not been trained.
    """
    path = directory / f"{name}.state.safetensors"
    if not path.is_file():
        raise UserError(f"{path} does not exist: train the pack's {name} first (snakemake pack)")
    state = load_file(path)
    return {key.removeprefix("average."): value for key, value in state.items() if key.startswith("average.")}


def trained_autoencoder(directory: Path) -> Any:
    """The trained ``AutoencoderKL``, in evaluation mode."""
    from diffusers import AutoencoderKL

    model = AutoencoderKL(**autoencoder.CONFIG)
    model.load_state_dict(averaged(directory, "vae"))
    return model.to(memory_format=torch.channels_last).eval()


def export_clip(directory: Path, tokenizer: Path, models: Path) -> None:
    """Write ``models/clip``."""
    from transformers import CLIPTokenizer

    config = clip.model_config(len(CLIPTokenizer.from_pretrained(tokenizer)))
    clip.export(config, averaged(directory, "clip"), tokenizer, models / "clip")


def export_generator(directory: Path, tokenizer: Path, scale: float, models: Path) -> None:
    """Write ``models/text-to-image``, built beside it and moved into place whole."""
    from transformers import CLIPTokenizer

    loaded = CLIPTokenizer.from_pretrained(tokenizer)
    module = generator.TextToImage(loaded)
    module.load_state_dict(averaged(directory, "generator"))
    pipeline = generator.pipeline(module.eval(), trained_autoencoder(directory), loaded, scale)
    target, partial = models / "text-to-image", models / ".text-to-image.part"
    shutil.rmtree(partial, ignore_errors=True)
    pipeline.to(dtype=torch.float16).save_pretrained(partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
