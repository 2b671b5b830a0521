"""The text-to-image model: any ``diffusers`` text-to-image pipeline, from the hub or a local directory."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from t2ipal.errors import UserError
from t2ipal.identity import local_directory
from t2ipal.io import read_json
from t2ipal.preflight import PIPELINE_INDEX, check_model
from t2ipal.synthesis.gate import FloatImage
from t2ipal.synthesis.notices import say

_CALL_KEYS = ("prompt", "num_inference_steps", "guidance_scale", "height", "width", "generator", "output_type")


class Generator:
    """A loaded pipeline with the settings of the synthesis stage."""

    def __init__(self, pipeline: Any, settings: dict[str, Any]) -> None:
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

    @torch.inference_mode()
    def draw(self, prompts: list[str], seeds: list[int]) -> list[FloatImage]:
        """Draw one image per prompt, together; each from its own seed.

        Noise comes from one CPU generator per image, so that it is the same on every device and in every batch.

        Returns:
            Float images [H, W, 3] in 0..1, NaN where the model gave NaN.

        Raises:
            UserError: the pipeline refuses the settings, or the GPU's memory is too small.
        """
        settings = self.settings
        negative = {"negative_prompt": [settings["negative_prompt"]] * len(prompts)}
        try:
            images = self.pipeline(
                prompt=prompts,
                num_inference_steps=settings["steps"],
                guidance_scale=settings["guidance"],
                height=settings["height"],
                width=settings["width"],
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                output_type="pt",
                **(negative if settings["negative_prompt"] else {}),
            ).images
        except torch.cuda.OutOfMemoryError as error:
            raise UserError(
                f"the GPU's memory is too small to draw {len(prompts)} images at once; lower synthesis.batch_size"
            ) from error
        except ValueError as error:
            raise UserError(f"synthesis.model '{settings['model']}' refuses: {_first_line(error)}") from error
        return list(images.float().permute(0, 2, 3, 1).cpu().numpy())


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")


def precision(settings: dict[str, Any], device: str) -> torch.dtype:
    """The configured precision on a GPU; float32 on a CPU, where the half types are slow or missing."""
    if device == "cpu" and settings["dtype"] != "float32":
        say(f"dtype {settings['dtype']} is for GPUs: drawing in float32 on the CPU")
        return torch.float32
    chosen: torch.dtype = getattr(torch, settings["dtype"])
    return chosen


def load(settings: dict[str, Any], device: str) -> Generator:
    """Load ``settings["model"]`` onto a resolved device. Code from a model's repository is never run.

    Raises:
        UserError: the directory is missing, is no text-to-image pipeline, or lacks or damages weights; the hub
            cannot be reached or has no such model.
    """
    from diffusers import AutoPipelineForText2Image
    from safetensors import SafetensorError

    auto: Any = AutoPipelineForText2Image
    reference = settings["model"]
    directory = local_directory(reference)
    if directory is not None:
        check_model(reference, PIPELINE_INDEX, "synthesis.model")
        _check_components(directory)
    try:
        with _complete_weights(reference):
            pipeline = auto.from_pretrained(
                str(directory or reference),
                revision=None if directory is not None else settings["revision"],
                dtype=precision(settings, device),
                use_safetensors=True,
                trust_remote_code=False,
            )
    except (
        SafetensorError,
        OSError,
        ValueError,
        RuntimeError,
        TypeError,
        KeyError,
        AttributeError,
        ImportError,
    ) as error:
        raise UserError(_complaint(reference, error)) from error
    pipeline.set_progress_bar_config(disable=True)
    for name in ("unet", "vae"):
        module = getattr(pipeline, name, None)
        if module is not None:
            module.to(memory_format=torch.channels_last)
    return Generator(pipeline.to(device), settings)


def _check_components(directory: Path) -> None:
    """Refuse a directory that lacks a part: diffusers would make an empty tokenizer of a missing one."""
    index = read_json(directory / PIPELINE_INDEX)
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise UserError(f"model file {directory / PIPELINE_INDEX} (from synthesis.model) describes no pipeline")
    for name, value in index.items():
        if isinstance(value, list) and value and value[0] and not (directory / name).is_dir():
            raise UserError(f"model directory {directory} (from synthesis.model) lacks its part '{name}'; restore it")


class _Listener(logging.Handler):
    """Hears of tensors that a checkpoint lacks: the libraries fill them with noise and only log it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard = False

    def emit(self, record: logging.LogRecord) -> None:
        self.heard |= "newly initialized" in record.getMessage()


@contextmanager
def _complete_weights(reference: str) -> Iterator[None]:
    """Load without progress bars, and refuse weights that lack tensors.

    Raises:
        UserError: a library said that it initialised weights itself.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    bars: tuple[Any, ...] = (diffusers_logging, transformers_logging)
    for library in bars:
        library.disable_progress_bar()
    listener = _Listener()
    loggers = [logging.getLogger("diffusers"), logging.getLogger("transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(listener)
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(listener)
            logger.setLevel(level)
    if listener.heard:
        raise UserError(f"the weights of synthesis.model '{reference}' lack tensors; restore or download them again")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _complaint(reference: str, error: Exception) -> str:
    """One sentence on why a model did not load."""
    import socket

    from huggingface_hub import errors as hub

    chain = list(_causes(error))
    model = f"synthesis.model '{reference}'"
    if "AutoPipeline can't find a pipeline" in str(error):
        return f"{model} is not a text-to-image pipeline that diffusers knows; choose one that is"
    if any(isinstance(cause, hub.RevisionNotFoundError) for cause in chain):
        return f"{model} has no such revision on the hub; mend synthesis.revision"
    if any(isinstance(cause, hub.RepositoryNotFoundError) for cause in chain):
        return f"{model} is not on the hub, or is private; mend the id or set local-dir:PATH"
    offline = (hub.LocalEntryNotFoundError, ConnectionError, TimeoutError, socket.gaierror)
    if any(isinstance(cause, offline) for cause in chain):
        return f"{model} is not in the cache and the hub cannot be reached; connect, or set local-dir:PATH"
    return f"cannot load {model}: {_first_line(error)}; check the model's files"
