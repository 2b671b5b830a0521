"""What goes wrong while a model is loaded or run, as one sentence that names the key."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from t2ipal.errors import UserError

# What the libraries raise at files, names and options that they do not like.
LOADING = (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError, ImportError, NotImplementedError)


def first_line(error: BaseException) -> str:
    """What an error says first, without full stop; its name if it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1]).rstrip(". ")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def complaint(key: str, reference: str, error: BaseException) -> str:
    """One sentence on why the model ``reference`` of config key ``key`` did not load."""
    import socket

    from huggingface_hub import errors as hub

    chain = list(_causes(error))
    model = f"{key} '{reference}'"
    if "AutoPipeline can't find a pipeline" in str(error):
        return f"{model} is not a text-to-image pipeline that diffusers knows; choose one that is"
    if any(f"variant{sign}" in str(cause) for cause in chain for sign in ("=", " ")):
        return f"{model} has no weights of the variant that synthesis.variant names; mend it"
    if any(isinstance(cause, hub.RevisionNotFoundError) for cause in chain):
        return f"{model} has no such revision on the hub; mend synthesis.revision"
    if any(isinstance(cause, hub.RepositoryNotFoundError) for cause in chain):
        return f"{model} is not on the hub, or is private; mend the id or set local-dir:PATH"
    offline = (hub.LocalEntryNotFoundError, ConnectionError, TimeoutError, socket.gaierror)
    if any(isinstance(cause, offline) for cause in chain):
        return f"{model} is not in the cache and the hub cannot be reached; connect, or set local-dir:PATH"
    return f"cannot load {model}: {first_line(error)}; check the model's files"


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
