"""The sections of what is run beside the one table: comparisons, studies, and the training of the embedded models."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from t2ipal.settings.base import Strict
from t2ipal.settings.captions import SourceName


class BackboneChoice(Strict):
    """One entry of the comparison of backbones."""

    backbone: str = Field(description="As features.backbone.")
    pretrained: str | None = Field(None, description="As features.pretrained.")


class VariantSettings(Strict):
    """A row of one's own: a method with some settings changed."""

    method: str = Field(description="The method that it varies.")
    set: dict[str, Any] = Field(min_length=1, description="Dotted configuration keys and their values.")


class StudySettings(Strict):
    """Values of each study (`snakemake studies`, `snakemake study_<name>`); every one is run with all seeds."""

    images: tuple[int, ...] = Field((200, 400, 800, 1600, 3200), description="Captions in all (captions.total).")
    replicas: tuple[int, ...] = Field((1, 2), description="Images per caption (synthesis.images_per_caption).")
    guidance: tuple[float, ...] = Field((1.0, 2.0, 3.0, 6.0), description="synthesis.guidance.")
    steps: tuple[int, ...] = Field((2, 4, 8, 16), description="synthesis.steps.")
    classes: tuple[int, ...] = Field((1, 2, 3), description="Classes named in a caption (captions.max_classes).")
    sources: tuple[SourceName, ...] = Field(
        ("template", "prompts"), description="Captions of one source each (captions.sources)."
    )
    prototypes: tuple[int, ...] = Field((1, 2, 4, 8), description="adapter.prototypes.")
    alpha: tuple[float, ...] = Field((0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0), description="adapter.alphas, fixed.")
    beta: tuple[float, ...] = Field((0.5, 1.0, 3.0, 5.5, 10.0, 20.0), description="adapter.betas, fixed.")
    context: tuple[int, ...] = Field((1, 2, 4, 8, 16), description="prompts.length.")
    loss: tuple[str, ...] = Field(("ranking", "asymmetric", "bce", "bce-covariance"), description="loss.name.")
    presence: tuple[float, ...] = Field((0.25, 0.5, 0.75, 0.9), description="training.presence, with filtered labels.")
    shots: tuple[int, ...] = Field((1, 2, 4, 8, 16), description="Real images per class of `few_shot`.")
    known: tuple[float, ...] = Field(
        tuple(tenth / 10 for tenth in range(1, 10)), description="Known shares of labels of `partial_labels`."
    )


class PackSettings(Strict):
    """Training of the embedded models (`snakemake pack`); nothing else reads this section."""

    directory: str = Field("results/pack", min_length=1, description="Training states, logs and curves of the pack.")
    models: str = Field("src/t2ipal/pack/models", min_length=1, description="Where the finished models are put.")
    clip_samples: int = Field(900_000, ge=1, description="Scenes that CLIP is trained on.")
    autoencoder_samples: int = Field(80_000, ge=1, description="Crops that the autoencoder is trained on.")
    latents: int = Field(50_000, ge=1, description="Scenes whose latents the generator is trained on.")
    generator_samples: int = Field(520_000, ge=1, description="Samples that the generator is trained on.")
    judge_samples: int = Field(60_000, ge=1, description="Scenes that the judge of the generator is trained on.")
    sitting_minutes: int = Field(
        150, ge=1, description="A training stops after this long; the next `snakemake pack` goes on from there."
    )
