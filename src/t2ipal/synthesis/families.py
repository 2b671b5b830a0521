"""How a ``diffusers`` pipeline is driven: in one call, or, where we know its parts, in three that can overlap.

Taken apart are the pipelines of Stable Diffusion 1 and 2, SDXL and LCM. ``decode`` does what the end of their
``__call__`` does, so that the images are the same to the last bit (diffusers 0.42).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Settings = dict[str, Any]
# Arguments of a pipeline's call, each with one entry or row per image.
Condition = dict[str, Any]


@dataclass(frozen=True)
class Latents:
    """What denoising left: latents, or whole images [N, 3, H, W] in 0..1 with the word of the safety checker."""

    values: Tensor
    blanked: list[bool] | None = None

    def __getitem__(self, part: slice) -> Latents:
        return Latents(self.values[part], None if self.blanked is None else self.blanked[part])

    @classmethod
    def joined(cls, parts: Sequence[Latents]) -> Latents:
        """The parts, one behind the other."""
        if len(parts) == 1:
            return parts[0]
        flags = [flag for part in parts for flag in part.blanked or ()]
        return cls(torch.cat([part.values for part in parts]), flags or None)


class Fused:
    """Any pipeline: prompts go in, images come out."""

    def __init__(self, pipeline: Any, settings: Settings) -> None:
        self.pipeline, self.settings = pipeline, settings

    def condition(self, prompts: list[str]) -> Condition:
        """What the pipeline is told of each image."""
        return {"prompt": prompts, **self._negative(len(prompts))}

    def _negative(self, count: int) -> Condition:
        negative = self.settings["negative_prompt"]
        return {"negative_prompt": [negative] * count} if negative else {}

    def denoise(self, condition: Condition, seeds: list[int], between_steps: Callable[[], None] | None) -> Latents:
        """Draw one image per seed, together. ``between_steps`` may raise to break off."""
        result = self._call(condition, seeds, between_steps, "pt")
        blanked = getattr(result, "nsfw_content_detected", None)
        return Latents(result.images, [bool(flag) for flag in blanked or [False] * len(seeds)])

    def _call(
        self, condition: Condition, seeds: list[int], between_steps: Callable[[], None] | None, output_type: str
    ) -> Any:
        def step_ended(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if between_steps is not None:
                between_steps()
            return tensors

        heard = "callback_on_step_end" in inspect.signature(self.pipeline.__call__).parameters
        return self.pipeline(
            **condition,
            num_inference_steps=self.settings["steps"],
            guidance_scale=self.settings["guidance"],
            height=self.settings["height"],
            width=self.settings["width"],
            # On the CPU, so that the noise is the same on every device and in every batch.
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type=output_type,
            **({"callback_on_step_end": step_ended} if heard else {}),
        )

    def decode(self, latents: Latents) -> tuple[Tensor, list[bool]]:
        """Images [N, 3, H, W] in 0..1, and which of them the safety checker blanked."""
        return latents.values, latents.blanked or [False] * len(latents.values)


class StableDiffusion(Fused):
    """Stable Diffusion 1 and 2 with all their distillations, and LCM."""

    def condition(self, prompts: list[str]) -> Condition:
        """Embeddings of the prompts and, under guidance, of the negative prompt."""
        positive, negative = self._encode(prompts)
        return {"prompt_embeds": positive} | ({} if negative is None else {"negative_prompt_embeds": negative})

    def _encode(self, prompts: list[str]) -> tuple[Tensor | None, ...]:
        found: tuple[Tensor | None, ...] = self.pipeline.encode_prompt(
            prompt=prompts,
            device=self.pipeline._execution_device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=self._guided,
            **self._negative(len(prompts)),
        )
        return found

    @property
    def _guided(self) -> bool:
        # A denoiser that takes the guidance scale as an input is not run twice.
        takes_scale = self.pipeline.unet.config.time_cond_proj_dim is not None
        return self.settings["guidance"] > 1 and not takes_scale and type(self.pipeline).__name__ != LCM

    def denoise(self, condition: Condition, seeds: list[int], between_steps: Callable[[], None] | None) -> Latents:
        """Denoise one latent per seed, together. ``between_steps`` may raise to break off."""
        return Latents(self._call(condition, seeds, between_steps, "latent").images)

    def decode(self, latents: Latents) -> tuple[Tensor, list[bool]]:
        """Images [N, 3, H, W] in 0..1, and which of them the safety checker blanked."""
        pipeline, values = self.pipeline, latents.values
        images = pipeline.vae.decode(values / pipeline.vae.config.scaling_factor, return_dict=False)[0]
        images, flags = pipeline.run_safety_checker(images, images.device, values.dtype)
        blanked = [bool(flag) for flag in flags or [False] * len(images)]
        normal = [not flag for flag in blanked]
        return pipeline.image_processor.postprocess(images.float(), output_type="pt", do_denormalize=normal), blanked


class StableDiffusionXL(StableDiffusion):
    """SDXL with all its distillations."""

    def __init__(self, pipeline: Any, settings: Settings) -> None:
        super().__init__(pipeline, settings)
        if pipeline.vae.dtype == torch.float16 and pipeline.vae.config.force_upcast:
            # It overflows in float16; the pipeline would convert it there and back for every batch.
            pipeline.vae.to(torch.float32)

    def condition(self, prompts: list[str]) -> Condition:
        """Embeddings of the prompts and, under guidance, of the negative prompt; token by token and pooled."""
        names = "prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"
        found = zip(names, self._encode(prompts), strict=True)
        return {name: value for name, value in found if value is not None}

    def decode(self, latents: Latents) -> tuple[Tensor, list[bool]]:
        """Images [N, 3, H, W] in 0..1; SDXL has no safety checker."""
        pipeline, vae = self.pipeline, self.pipeline.vae
        values, mean, std = latents.values.to(vae.dtype), vae.config.latents_mean, vae.config.latents_std
        if mean is None or std is None:
            values = values / vae.config.scaling_factor
        else:
            values = values * _of_channels(std, values) / vae.config.scaling_factor + _of_channels(mean, values)
        images = vae.decode(values, return_dict=False)[0]
        if pipeline.watermark is not None:
            images = pipeline.watermark.apply_watermark(images)
        return pipeline.image_processor.postprocess(images.float(), output_type="pt"), [False] * len(images)


def _of_channels(numbers: list[float], like: Tensor) -> Tensor:
    return torch.tensor(numbers).view(1, -1, 1, 1).to(like.device, like.dtype)


LCM = "LatentConsistencyModelPipeline"
_KNOWN: dict[str, type[Fused]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    LCM: StableDiffusion,
}


def family(pipeline: Any, settings: Settings) -> Fused:
    """The way to drive ``pipeline``."""
    return _KNOWN.get(type(pipeline).__name__, Fused)(pipeline, settings)
