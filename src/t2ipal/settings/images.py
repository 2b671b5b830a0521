"""The sections of the stages that make images and their features."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from t2ipal.settings.base import Precision, Strict, Template


class SynthesisSettings(Strict):
    """Stage 2: caption -> text-to-image diffusion -> images in WebDataset shards."""

    model: str = Field(
        "local-dir:src/t2ipal/pack/models/text-to-image",
        description="diffusers text-to-image model: hub id, or local-dir:PATH.",
    )
    revision: str | None = Field(None, description="Hub revision to pin (commit, tag); none for local-dir.")
    variant: str | None = Field(None, description="Variant of the weights' files, as fp16.")
    images_per_caption: int = Field(
        1, ge=1, description="Replicas drawn of every caption (★ not published); more only add to them."
    )
    scheduler: str | None = Field(None, description="diffusers scheduler by class name; none: the model's own.")
    scheduler_options: dict[str, Any] = Field(
        {}, description="Options of the scheduler, as {timestep_spacing: trailing}."
    )
    steps: int = Field(8, ge=1, le=1000, description="Denoising steps.")
    guidance: float = Field(3.0, ge=0, description="Classifier-free guidance scale.")
    negative_prompt: str = Field("", description="Negative prompt.")
    lora: str | None = Field(None, description="LoRA weights, as few-step ones: hub id or local-dir:PATH.")
    lora_file: str | None = Field(None, description="File of the LoRA weights; none: the only one there.")
    lora_scale: float = Field(1.0, ge=0, description="Weight of the LoRA.")
    safety_checker: bool = Field(
        False, description="Keep the model's safety checker; what it blanks is redrawn and counted."
    )
    height: int = Field(64, ge=8, description="Image height in pixels.")
    width: int = Field(64, ge=8, description="Image width in pixels.")
    dtype: Precision = Field("float32", description="Precision of the pipeline.")
    attention_slicing: bool = Field(False, description="Attention in slices, for small GPUs.")
    vae_tiling: bool = Field(False, description="Decode in tiles and one by one, for small GPUs.")
    compile: bool = Field(False, description="torch.compile the denoiser: slow start, faster steps on a GPU.")
    batch_size: int = Field(50, ge=1, description="Images denoised together.")
    shard_size: int = Field(800, ge=1, description="Images per shard; a shard is the unit of caching.")
    shards_per_job: int = Field(3, ge=1, description="Shards drawn by one job, from one loading of the model.")
    redraws: int = Field(3, ge=0, description="Attempts to redraw a black, constant, blanked or NaN image.")
    image_format: Literal["png", "webp"] = Field("png", description="Encoding of the images in the shards (lossless).")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")


class VerificationSettings(Strict):
    """A look at each synthetic image: how well does it show what its caption says? For `training.labels` only."""

    backbone: str | None = Field(
        None,
        description="CLIP that verifies, as features.backbone; none for that one, whose own errors it cannot see.",
    )
    pretrained: str | None = Field(None, description="As features.pretrained, for a backbone named here.")
    precision: Precision = Field("float32", description="Precision of the towers.")
    batch_size: int = Field(100, ge=1, description="Images scored together.")
    template: Template = Field("a photo of a {}.", description="Prompt of each class.")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")

    @model_validator(mode="after")
    def _checkpoint_has_a_model(self) -> VerificationSettings:
        if self.pretrained is not None and self.backbone is None:
            raise ValueError("pretrained is for a backbone named here; set verification.backbone too")
        return self


class FeatureSettings(Strict):
    """Stage 3: frozen CLIP features of synthetic images, captions and real images."""

    backbone: str = Field(
        "local-dir:src/t2ipal/pack/models/clip",
        description="open_clip model: local-dir:PATH, hf-hub:ID, or a model name.",
    )
    pretrained: str | None = Field(None, description="open_clip checkpoint tag or file, for a model name.")
    attnpool_positional: bool = Field(
        False, description="Keep the attention pool's positional embedding in local features (★ TaI-DPT leaves it out)."
    )
    input_size: int | None = Field(
        None, ge=16, description="Side of the tower's input in pixels; none: the model's own (224 for most)."
    )
    resize: Literal["crop", "squash"] | None = Field(
        None,
        description="How images become squares: crop (short side, then centre) or squash; none: the model's own way.",
    )
    precision: Precision = Field("float32", description="Precision of the towers.")
    batch_size: int = Field(100, ge=1, description="Images or captions encoded together.")
    part_size: int = Field(5000, ge=1, description="Rows per Parquet part of real images and captions.")
    parts_per_job: int = Field(
        1, ge=1, description="Parts of synthetic images that one job makes, from one loading of the CLIP."
    )
    workers: int | None = Field(
        None, ge=0, description="Processes that decode images; none: none on a CPU, up to 8 beside a GPU."
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
