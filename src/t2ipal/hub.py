"""What a model hub answers when it does not give a model, as one sentence."""

from __future__ import annotations

from collections.abc import Iterator


def first_line(error: BaseException) -> str:
    """What an error says first, without full stop; its name if it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1]).rstrip(". ")


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what caused it, what caused that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def refusal(model: str, revision_key: str, error: BaseException) -> str | None:
    """Why the hub did not give ``model`` (how the sentence begins); None if it was not the hub's doing."""
    import socket

    from huggingface_hub import errors as hub

    chain = list(causes(error))

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in chain)

    if caused_by(hub.RevisionNotFoundError):
        return f"{model} has no such revision on the hub; mend {revision_key}"
    if caused_by(hub.GatedRepoError):
        return f"{model} is gated: accept its terms on the hub and set HF_TOKEN, or set local-dir:PATH"
    if caused_by(hub.RepositoryNotFoundError):
        return f"{model} is not on the hub, or is private; mend the id or set local-dir:PATH"
    if caused_by(hub.LocalEntryNotFoundError, ConnectionError, TimeoutError, socket.gaierror):
        return f"{model} is not in the cache and the hub cannot be reached; connect, or set local-dir:PATH"
    if any(_is_broken_transport(cause) for cause in chain):
        return f"{model} was not downloaded to its end ({first_line(error)}); run it again"
    return None


def _is_broken_transport(error: BaseException) -> bool:
    """Whether a connection broke, by the name that the hub's HTTP client gives it: that is no ``OSError``."""
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
