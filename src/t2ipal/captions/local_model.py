"""A causal language model in this process: any that ``transformers`` loads, from the hub, a directory or a GGUF."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from t2ipal.captions.answers import Answer, Request
from t2ipal.errors import UserError
from t2ipal.hub import causes, first_line, refusal
from t2ipal.identity import llm_identity, local_directory
from t2ipal.preflight import check_model
from t2ipal.sequences import batched
from t2ipal.settings import LlmSettings

CONFIG = "config.json"

Keep = Callable[[Request, Answer], None]


class LocalModel:
    """Answers requests in batches. Nothing is loaded before the first one.

    It computes on ``captions.llm.device`` as the job has leased it: ``cpu`` or ``cuda:N``.
    """

    def __init__(self, settings: LlmSettings) -> None:
        """Check what can be checked without loading.

        Raises:
            UserError: a local directory or GGUF file is missing or damaged.
        """
        self.settings = settings
        self.directory = local_directory(settings.model)
        if self.directory is not None and settings.gguf is not None:
            _check_gguf(self.directory, settings.gguf)
        elif self.directory is not None:
            check_model(settings.model, CONFIG, "captions.llm.model")

    @cached_property
    def identity(self) -> str:
        """A text that changes with the weights and with their precision."""
        settings = self.settings
        if self.directory is None:
            named = [settings.model, settings.revision or "main", settings.gguf or ""]
            return ":".join([*named, settings.dtype])
        return f"{llm_identity(settings)}:{settings.dtype}"

    def prepare(self) -> None:
        """Load the model.

        Raises:
            UserError: it does not load, or is no causal language model.
        """
        _ = self.loaded

    def answer(self, requests: Sequence[Request], keep: Keep) -> None:
        """Answer all requests, ``captions.llm.batch_size`` together; each is kept as soon as its batch is done.

        Raises:
            UserError: the model does not load, or so many answers at once do not fit on the device.
        """
        tokenizer, model = self.loaded
        from t2ipal.captions.generation import generate

        for batch in batched(requests, self.settings.batch_size):
            for request, answer in zip(batch, generate(tokenizer, model, batch), strict=True):
                keep(request, answer)

    @cached_property
    def loaded(self) -> tuple[Any, Any]:
        """Tokenizer and model."""
        return _load(self.settings)


def _check_gguf(directory: Path, name: str) -> None:
    if not directory.is_dir():
        raise UserError(f"model directory '{directory}' (config key 'captions.llm.model') does not exist")
    path = directory / name
    if not path.is_file():
        there = ", ".join(sorted(file.name for file in directory.glob("*.gguf"))) or "none"
        raise UserError(f"model file '{path}' (config key 'captions.llm.gguf') is missing; GGUF files there: {there}")
    with path.open("rb") as handle:
        if handle.read(4) != b"GGUF":
            raise UserError(f"model file '{path}' (config key 'captions.llm.gguf') is no GGUF file; restore it")


def _load(settings: LlmSettings) -> tuple[Any, Any]:
    """Tokenizer and model. Code from a model's repository is never run, and nothing is unpickled.

    Raises:
        UserError: the model is not there, lacks or damages weights, or is no causal language model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    dtype = torch.float32 if settings.device == "cpu" else getattr(torch, settings.dtype)
    logging.disable_progress_bar()
    try:
        where, options = _place(settings)
        config: Any = AutoConfig.from_pretrained(where, **options)
        _check_causal(config, settings.model)
        tokenizer: Any = AutoTokenizer.from_pretrained(where, **options)
        weights: Any = {"dtype": dtype, "output_loading_info": True}
        if settings.gguf is None:
            weights["use_safetensors"] = True
        model, info = AutoModelForCausalLM.from_pretrained(where, config=config, **options, **weights)
    except UserError:
        raise
    except Exception as error:
        raise UserError(_complaint(settings, error)) from error
    if info["missing_keys"] or info["mismatched_keys"]:
        raise UserError(
            f"the weights of captions.llm.model '{settings.model}' lack tensors; restore or download them again"
        )
    return tokenizer, model.to(settings.device).eval()


def _place(settings: LlmSettings) -> tuple[str, dict[str, Any]]:
    """What ``from_pretrained`` is told. A GGUF of the hub is fetched first: it carries config and tokenizer."""
    directory = local_directory(settings.model)
    if settings.gguf is None:
        where, options = str(directory or settings.model), {"revision": None if directory else settings.revision}
    elif directory is not None:
        where, options = str(directory), {"gguf_file": settings.gguf}
    else:
        from huggingface_hub import hf_hub_download

        path = Path(hf_hub_download(settings.model, settings.gguf, revision=settings.revision))
        where, options = str(path.parent), {"gguf_file": path.name}
    return where, {**{key: value for key, value in options.items() if value is not None}, "trust_remote_code": False}


def _check_causal(config: Any, reference: str) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

    causal = {name for names in KNOWN.values() for name in (names if isinstance(names, tuple) else (names,))}
    built = tuple(config.architectures or ())
    if config.model_type not in KNOWN or (built and causal.isdisjoint(built)):
        raise UserError(
            f"captions.llm.model '{reference}' is a {(*built, config.model_type)[0]}, not a causal language model; "
            f"choose one that generates text"
        )


def _complaint(settings: LlmSettings, error: Exception) -> str:
    """One sentence on why a model did not load."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    model = f"captions.llm.model '{settings.model}'"
    lacking = [cause for cause in causes(error) if isinstance(cause, EntryNotFoundError)]
    if settings.gguf is not None and lacking and not any(isinstance(e, LocalEntryNotFoundError) for e in lacking):
        return f"{model} has no file '{settings.gguf}' on the hub; mend captions.llm.gguf"
    if "trust_remote_code" in str(error):
        return f"{model} needs code from its repository, which is never run; choose another model"
    told = refusal(model, "captions.llm.revision", error)
    return told or f"cannot load {model}: {first_line(error)}; check the model's files"
