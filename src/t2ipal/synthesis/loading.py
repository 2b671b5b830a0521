"""A ``diffusers`` text-to-image pipeline from the hub or a local directory, set up as configured."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from t2ipal.errors import UserError
from t2ipal.identity import local_directory
from t2ipal.io import read_json
from t2ipal.preflight import PIPELINE_INDEX, check_model
from t2ipal.synthesis import lora
from t2ipal.synthesis.complaints import complaint, complete_weights
from t2ipal.synthesis.notices import say
from t2ipal.synthesis.schedulers import scheduler_of

Settings = dict[str, Any]
_CHECKER = "safety_checker"


def precision(settings: Settings, device: str) -> torch.dtype:
    """The configured precision on a GPU; float32 on a CPU, where the half types are slow or missing."""
    if device == "cpu" and settings["dtype"] != "float32":
        say(f"dtype {settings['dtype']} is for GPUs: drawing in float32 on the CPU")
        return torch.float32
    chosen: torch.dtype = getattr(torch, settings["dtype"])
    return chosen


def open_pipeline(settings: Settings, device: str) -> Any:
    """The pipeline ``settings["model"]`` on a resolved device. Code from a model's repository is never run.

    Raises:
        UserError: the model is missing, is no text-to-image pipeline, or lacks or damages weights; the hub cannot be
            reached or has no such model; scheduler, LoRA or another setting does not fit the model.
    """
    pipeline = _load(settings, device)
    for library in ("diffusers", "transformers"):
        # They would repeat for every batch what the stage says once: prompts cut short, images blanked.
        logging.getLogger(library).setLevel(logging.ERROR)
    if settings[_CHECKER] and getattr(pipeline, _CHECKER, None) is None:
        raise UserError(f"synthesis.safety_checker: model '{settings['model']}' has none; set it to false")
    if settings["lora"] is not None:
        lora.merge(pipeline, settings["lora"], settings["lora_file"], settings["lora_scale"])
    if settings["scheduler"] is not None or settings["scheduler_options"]:
        pipeline.scheduler = scheduler_of(
            pipeline, settings["scheduler"], settings["scheduler_options"], settings["steps"]
        )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device)
    _set_up(pipeline, settings)
    return pipeline


def _load(settings: Settings, device: str) -> Any:
    from diffusers import AutoPipelineForText2Image

    auto: Any = AutoPipelineForText2Image
    reference, directory = settings["model"], local_directory(settings["model"])
    revision = settings["revision"] if directory is None else None
    if directory is not None:
        check_model(reference, PIPELINE_INDEX, "synthesis.model")
        _check_components(directory, settings)
    source = str(directory or reference)
    options: dict[str, Any] = {
        "revision": revision,
        "variant": settings["variant"],
        "dtype": precision(settings, device),
        "use_safetensors": True,
        "trust_remote_code": False,
    }
    try:
        with complete_weights(reference):
            if not settings[_CHECKER]:
                options |= _without_checker(auto.load_config(source, revision=revision))
            return auto.from_pretrained(source, **options)
    except UserError:
        raise
    except Exception as error:
        raise UserError(complaint("synthesis.model", reference, error)) from error


def _without_checker(index: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that keep a pipeline's safety checker from being loaded, and the pipeline from warning of it."""
    import diffusers

    if _CHECKER not in index:
        return {}
    kind = getattr(diffusers, str(index.get("_class_name")), None)
    warns = kind is not None and "requires_safety_checker" in inspect.signature(kind.__init__).parameters
    return {_CHECKER: None} | ({"requires_safety_checker": False} if warns else {})


def _check_components(directory: Path, settings: Settings) -> None:
    """Refuse a directory that lacks a part: diffusers would make an empty tokenizer of a missing one."""
    index = read_json(directory / PIPELINE_INDEX)
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise UserError(f"model file {directory / PIPELINE_INDEX} (from synthesis.model) describes no pipeline")
    for name, value in index.items():
        needed = isinstance(value, list) and value and value[0] and (name != _CHECKER or settings[_CHECKER])
        if needed and not (directory / name).is_dir():
            raise UserError(f"model directory {directory} (from synthesis.model) lacks its part '{name}'; restore it")


def _set_up(pipeline: Any, settings: Settings) -> None:
    """Memory formats, the ways to save memory, and compilation.

    Raises:
        UserError: the model knows no such way.
    """
    vae: Any = getattr(pipeline, "vae", None)
    for module in (getattr(pipeline, "unet", None), vae):
        if module is not None:
            module.to(memory_format=torch.channels_last)
    if settings["attention_slicing"]:
        pipeline.enable_attention_slicing()
    if settings["vae_tiling"]:
        try:
            vae.enable_tiling()
            vae.enable_slicing()
        except (AttributeError, NotImplementedError) as error:
            model = settings["model"]
            raise UserError(f"synthesis.vae_tiling: the model '{model}' cannot do it; set it to false") from error
    if settings["compile"]:
        denoiser(pipeline, settings).compile()


def denoiser(pipeline: Any, settings: Settings) -> torch.nn.Module:
    """The network that is run in every step.

    Raises:
        UserError: the pipeline has none under the usual names.
    """
    for name in ("unet", "transformer"):
        module = getattr(pipeline, name, None)
        if isinstance(module, torch.nn.Module):
            return module
    raise UserError(f"synthesis.compile: the model '{settings['model']}' has no unet or transformer; set it to false")
