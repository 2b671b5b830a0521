"""The text-to-image model of the synthesis stage: embeds prompts, denoises, decodes; batches that fit the memory."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from t2ipal.errors import UserError
from t2ipal.hub import first_line
from t2ipal.synthesis.families import Condition, Latents, Settings, family
from t2ipal.synthesis.gate import FloatImage
from t2ipal.synthesis.loading import open_pipeline
from t2ipal.synthesis.notices import say

_CALL_KEYS = ("prompt", "num_inference_steps", "guidance_scale", "height", "width", "generator", "output_type")
_TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3", "tokenizer_4")

Part = TypeVar("Part")


class Portions:
    """Work on images in portions: what does not fit into the GPU's memory is halved, and stays so."""

    def __init__(self, doing: str) -> None:
        self.doing = doing
        self.limit: int | None = None

    def run(self, work: Callable[[slice], Part], count: int) -> list[Part]:
        """The results of ``work`` on slices that make up ``range(count)``.

        Raises:
            UserError: not even one image fits.
        """
        done: list[Part] = []
        first, shrunk = 0, False
        while first < count:
            size = min(self.limit or count, count - first)
            part = self._attempt(work, slice(first, first + size))
            if part is not None:
                done.append(part)
                first += size
            elif size == 1:
                raise UserError(
                    f"the GPU's memory is too small for {self.doing} one image; lower synthesis.height and width, set "
                    "dtype float16, attention_slicing or vae_tiling, or draw on the CPU"
                )
            else:
                self.limit, shrunk = (size + 1) // 2, True
                torch.cuda.empty_cache()
        if shrunk:
            say(
                f"the GPU's memory is too small for {self.doing} {count} images at once: {self.limit} at once from "
                "here on; synthesis.batch_size could be lower"
            )
        return done

    @staticmethod
    def _attempt(work: Callable[[slice], Part], part: slice) -> Part | None:
        # The error holds the tensors of the attempt: it must be gone before the next one.
        try:
            return work(part)
        except torch.cuda.OutOfMemoryError:
            return None


class Generator:
    """A loaded pipeline with the settings of the synthesis stage.

    ``condition``, ``denoise`` and ``decode`` may run on three threads at a time, one call of each.
    """

    def __init__(self, pipeline: Any, settings: Settings) -> None:
        """Check that the pipeline understands the settings.

        Raises:
            UserError: it does not; names the setting.
        """
        self.pipeline, self.settings = pipeline, settings
        accepted = inspect.signature(pipeline.__call__).parameters
        needed = [*_CALL_KEYS, *(["negative_prompt"] if settings["negative_prompt"] else [])]
        lacking = [key for key in needed if key not in accepted]
        if lacking:
            raise UserError(
                f"synthesis.model '{settings['model']}' is a {type(pipeline).__name__}, "
                f"which does not take '{lacking[0]}'; choose another model or setting"
            )
        self.family = family(pipeline, settings)
        self._denoising, self._decoding = Portions("denoising"), Portions("decoding")
        self._tokenizing = threading.Lock()

    @property
    def spare_cores(self) -> int:
        """How many of the cores that this process may use denoising leaves free; on a GPU, one at the least."""
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if str(self.pipeline.device) != "cpu":
            return max(1, allowed - 1)
        return max(0, allowed - torch.get_num_threads())

    @torch.inference_mode()
    def condition(self, prompts: list[str]) -> Condition:
        """What the denoiser is told of each of N images; embeddings of the prompts where they can be had ahead.

        Raises:
            UserError: the pipeline refuses the settings.
        """
        with self._tokenizing, self._refusals():
            return self.family.condition(prompts)

    @torch.inference_mode()
    def denoise(
        self, condition: Condition, seeds: list[int], between_steps: Callable[[], None] | None = None
    ) -> Latents:
        """Denoise N images together, each from the noise of its own seed.

        Noise comes from one CPU generator per image, so that it is the same on every device and in every batch.
        ``between_steps`` is called after every step and may raise to break off.

        Raises:
            UserError: the pipeline refuses the settings, or the GPU's memory is too small for one image.
        """

        def work(part: slice) -> Latents:
            return self.family.denoise({k: rows[part] for k, rows in condition.items()}, seeds[part], between_steps)

        with self._refusals():
            return Latents.joined(self._denoising.run(work, len(seeds)))

    @torch.inference_mode()
    def decode(self, latents: Latents) -> tuple[list[FloatImage], list[bool]]:
        """Float images [H, W, 3] in 0..1, NaN where the model gave NaN; and which of them its checker blanked.

        Raises:
            UserError: the GPU's memory is too small for one image.
        """

        def work(part: slice) -> tuple[list[FloatImage], list[bool]]:
            images, blanked = self.family.decode(latents[part])
            return list(images.float().permute(0, 2, 3, 1).cpu().numpy()), blanked

        parts = self._decoding.run(work, len(latents.values))
        return [image for images, _ in parts for image in images], [flag for _, flags in parts for flag in flags]

    def draw(self, prompts: list[str], seeds: list[int]) -> list[FloatImage]:
        """Draw one image per prompt, together, from start to end.

        Raises:
            UserError: as ``denoise``.
        """
        return self.decode(self.denoise(self.condition(prompts), seeds))[0]

    def truncated(self, prompts: list[str]) -> list[bool]:
        """Which prompts have more tokens than one of the pipeline's tokenizers keeps."""
        found = [False] * len(prompts)
        for name in _TOKENIZERS:
            tokenizer = getattr(self.pipeline, name, None)
            if tokenizer is not None and prompts:
                with self._tokenizing:
                    tokens = tokenizer(prompts, verbose=False).input_ids
                limit = tokenizer.model_max_length
                found = [before or len(row) > limit for before, row in zip(found, tokens, strict=True)]
        return found

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, NotImplementedError) as error:
            raise UserError(f"synthesis.model '{self.settings['model']}' refuses: {first_line(error)}") from error
        except RuntimeError as error:
            if not self.settings["compile"] or not type(error).__module__.startswith("torch._"):
                raise
            raise UserError(f"synthesis.compile: {first_line(error)}; set it to false") from error


def load(settings: Settings, device: str) -> Generator:
    """Load ``settings["model"]`` onto a resolved device, set up as configured.

    Raises:
        UserError: model, scheduler, LoRA or another setting does not work, or they do not fit each other.
    """
    return Generator(open_pipeline(settings, device), settings)
