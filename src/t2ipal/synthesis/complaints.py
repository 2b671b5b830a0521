"""What goes wrong while a model is loaded or run, as one sentence that names the key."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from t2ipal.errors import UserError
from t2ipal.hub import causes, first_line, refusal

# What the libraries raise at files, names and options that they do not like.
LOADING = (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError, ImportError, NotImplementedError)


def complaint(key: str, reference: str, error: BaseException) -> str:
    """One sentence on why the model ``reference`` of config key ``key`` did not load."""
    model = f"{key} '{reference}'"
    if "AutoPipeline can't find a pipeline" in str(error):
        return f"{model} is not a text-to-image pipeline that diffusers knows; choose one that is"
    if any("variant=None" in str(cause) for cause in causes(error)):
        return (
            f"{model} has no weights as safetensors, and files that could run code are not read; choose another model"
        )
    if any(f"variant{sign}" in str(cause) for cause in causes(error) for sign in ("=", " ")):
        return f"{model} has no weights of the variant that synthesis.variant names; mend it"
    told = refusal(model, "synthesis.revision", error)
    if told is None and "file named model_index.json" in str(error):
        told = f"{model} has no model_index.json: it is no pipeline of diffusers; choose another model"
    return told or f"cannot load {model}: {first_line(error)}; check the model's files"


class _Listener(logging.Handler):
    """Hears of tensors that a checkpoint lacks: the libraries fill them with noise and only log it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard = False

    def emit(self, record: logging.LogRecord) -> None:
        self.heard |= "newly initialized" in record.getMessage()


@contextmanager
def complete_weights(reference: str) -> Iterator[None]:
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
