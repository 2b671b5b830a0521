"""What jobs ask a cluster for: memory of the host and time, as the configuration tells. Retried jobs ask for more."""

from __future__ import annotations

from t2ipal.budget.rates import published
from t2ipal.settings import SynthesisSettings

# MB: torch, its CUDA libraries and what a job of the embedded models holds, measured as 2.3 GB at most.
_EMBEDDED = 4000
# MB: weights of the largest diffusion models on their way to the GPU (SDXL: 7 GB in half precision).
_DIFFUSION = {"float16": 12000, "bfloat16": 12000, "float32": 20000}
# MB: weights of the largest CLIPs, in float32, and the pages of features that are not in use.
_CLIP = 8000
# MB: one process that decodes images ahead.
_DECODER = 400
# A published speed is that of other hardware: a job may take so many times as long before it is stopped.
_MARGIN = 3.0
_UNKNOWN_MINUTES = 720
_LOADING_MINUTES = 30


def _is_local(reference: str) -> bool:
    return reference.startswith("local-dir:")


def synthesis_memory(settings: SynthesisSettings) -> int:
    """MB for a job that draws images."""
    return _EMBEDDED if _is_local(settings.model) else _DIFFUSION[settings.dtype]


def synthesis_minutes(settings: SynthesisSettings, images: int) -> int:
    """Minutes for a job of so many images: by the published speed of the model, half a day where there is none."""
    rate = published(settings)
    if rate is None:
        return _UNKNOWN_MINUTES
    return _LOADING_MINUTES + int(_MARGIN * images / rate.images_per_second / 60)


def encoder_memory(backbone: str, decoders: int = 0) -> int:
    """MB for a job that holds a CLIP, beside processes that decode images for it."""
    return (_EMBEDDED if _is_local(backbone) else _CLIP) + _DECODER * decoders
