"""The sections of training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from t2ipal.settings.base import Fraction, Strict, Template


class PromptSettings(Strict):
    """The learnable contexts."""

    length: int = Field(4, ge=1, le=64, description="Context tokens M (★).")
    init_std: float = Field(0.02, gt=0, description="Standard deviation of their normal initialisation.")
    initial_words: str = Field(
        "", description="Words whose embeddings start the contexts, as 'a photo of a'; none: at random."
    )
    class_specific: bool = Field(False, description="One context per class instead of one for all (★).")
    learn_global: bool = Field(True, description="Tune the global context; if not, the template stands in.")
    learn_local: bool = Field(True, description="Tune the local context; if not, the template stands in.")
    template: Template = Field("a photo of a {}.", description="Default prompt of the zero-shot methods.")
    ensemble: bool = Field(False, description="Zero-shot: the mean of the 80 ImageNet templates instead of one.")


class ScoreSettings(Strict):
    """Temperatures of the scores (method.md §5)."""

    tau: float = Field(4.0, gt=0, description="Scale of global and local scores (★).")
    tau_s_train: float = Field(50.0, gt=0, description="Sharpness of the class-wise heatmap in training (★).")
    tau_s_test: float = Field(40.0, gt=0, description="Sharpness of the class-wise heatmap at test (★).")
    heatmap: bool = Field(True, description="Weigh positions by the class-wise heatmap; if not, all alike.")
    local: bool = Field(True, description="Use the local branch.")
    normalise: bool = Field(
        False, description="Zero-shot: standardise scores over the scored images, then over classes (transductive)."
    )


class AdapterSettings(Strict):
    """Prototypes and the Tip-Adapter-F style cache (method.md §5)."""

    prototypes: int = Field(1, ge=0, description="Prototypes per class K (★); 0 leaves them out.")
    pooling: Literal["max", "mean"] = Field("max", description="How the K affinities of a class are joined (★).")
    keys_per_class: int = Field(
        40, ge=0, description="Cache keys kept per class, drawn from the training images (★); 0 leaves the cache out."
    )
    betas: tuple[float, ...] = Field(
        (1.0, 3.0, 5.5, 10.0), min_length=1, description="Sharpness values searched on held-out synthetic images."
    )
    alphas: tuple[float, ...] = Field(
        (0.25, 0.5), min_length=1, description="Weights of the adapter score searched likewise."
    )
    local_weights: tuple[float, ...] = Field(
        (1.0, 2.0), min_length=1, description="Weights w_l of the local score searched likewise (w_g = 1)."
    )
    learning_rate: float = Field(1e-3, gt=0, description="AdamW step for prototypes and keys.")
    epochs: int = Field(20, ge=0, description="Epochs of prototypes and keys; 0 leaves them as initialised.")

    @model_validator(mode="after")
    def _holds_something(self) -> AdapterSettings:
        if not self.prototypes and not self.keys_per_class:
            raise ValueError("prototypes and keys_per_class are both 0; use a method without adapter instead")
        return self


class LossSettings(Strict):
    """What the scores of a batch are judged by (method.md §6)."""

    name: Literal["ranking", "asymmetric", "bce", "bce-covariance"] = Field(
        "ranking", description="ranking, asymmetric, bce or bce-covariance."
    )
    margin: float = Field(1.0, gt=0, description="Margin of the pairwise hinge ranking loss.")
    scale: float = Field(
        1.0, gt=0, description="Factor that turns centred scores into logits, for all losses but ranking (★)."
    )
    gamma_positive: float = Field(1.0, ge=0, description="Focusing exponent for positives, asymmetric (★).")
    gamma_negative: float = Field(2.0, ge=0, description="Focusing exponent for negatives, asymmetric (★).")
    clip: float = Field(0.05, ge=0, lt=1, description="Probability shift of negatives, asymmetric (★).")
    covariance: float = Field(
        100.0, ge=0, description="Weight of the class covariance regulariser, bce-covariance; weak below 100 (★)."
    )


class LinearSettings(Strict):
    """CoMC-style baseline: a linear head on noised caption features, images projected to the text space at test."""

    noise: float = Field(0.1, ge=0, description="Length of the Gaussian noise added to unit text features (★).")
    temperature: float = Field(
        0.02, gt=0, description="Temperature of the projection of an image onto the captions' features (★)."
    )
    memory: int = Field(10_000, ge=1, description="Largest number of caption features that it projects onto (★).")
    learning_rate: float = Field(0.01, gt=0, description="AdamW step.")
    epochs: int = Field(30, ge=1, description="Epochs.")


class DualSettings(Strict):
    """DualCoOp baseline: a positive and a negative prompt; these keys stand in for those of prompts and training."""

    scale: float = Field(20.0, gt=0, description="Scale of its logits (★).")
    class_specific: bool = Field(True, description="A pair of contexts for each class instead of one pair for all.")
    epochs: int = Field(40, ge=1, description="Epochs: from random contexts a pair of prompts needs many steps.")
    batch_size: int = Field(32, ge=1, description="Samples per step.")


class ClipAdapterSettings(Strict):
    """CLIP-Adapter baseline: a bottleneck on the image feature, mixed in by a residual ratio."""

    reduction: int = Field(4, ge=1, description="Width of the feature over width of the bottleneck.")
    ratios: tuple[Fraction, ...] = Field(
        (0.1, 0.2, 0.4), min_length=1, description="Residual ratios searched on held-out synthetic images."
    )
    learning_rate: float = Field(1e-3, gt=0, description="AdamW step.")
    epochs: int = Field(20, ge=1, description="Epochs.")


class TrainingSettings(Strict):
    """Stage 4: prompt and adapter tuning on cached features."""

    epochs: int = Field(20, ge=1, description="Epochs (★ TaI-DPT: 20).")
    batch_size: int = Field(128, ge=1, description="Samples per step (★ TaI-DPT: 512).")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="Optimiser of the contexts: sgd or adamw.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="Decay of the step after the warm-up: cosine, linear or constant."
    )
    learning_rate: float = Field(0.006, gt=0, description="Step for the contexts (★ TaI-DPT: 1e-4).")
    warmup_epochs: int = Field(1, ge=0, description="Epochs at the warm-up step (★ TaI-DPT: 1).")
    warmup_learning_rate: float = Field(0.0002, gt=0, description="Step during the warm-up (★ TaI-DPT: 1e-5).")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD momentum.")
    weight_decay: float = Field(5e-4, ge=0, description="Weight decay of the contexts.")
    held_out: float = Field(
        0.2, gt=0, lt=1, description="Share of the training data held out to choose alpha, beta and fusion weights."
    )
    labels: Literal["hard", "filtered", "soft"] = Field(
        "hard", description="Labels of synthetic images: hard, filtered or soft by the verification (★)."
    )
    presence: Fraction = Field(
        0.5, description="Least presence of every label of a synthetic image, for filtered labels (★)."
    )
    models_per_job: int = Field(
        12, ge=1, description="Largest number of models that one job trains from one loading of the features."
    )


class RealSettings(Strict):
    """How many real, labelled training images the few-shot and partial-label methods are given."""

    shots: int | None = Field(None, ge=1, description="Real images per class; none for all that there are.")
    known: float = Field(1.0, gt=0, le=1, description="Share of their labels that is known.")
