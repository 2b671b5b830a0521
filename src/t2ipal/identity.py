"""What a reference to a model or label set stands for: names for themselves, local files for their content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from t2ipal.errors import UserError
from t2ipal.io import matching
from t2ipal.settings import LlmSettings

LOCAL = "local-dir:"
EDGE = 1 << 16


def local_directory(reference: str) -> Path | None:
    """The directory that ``local-dir:PATH`` names; None for a hub id or model name."""
    return Path(reference.removeprefix(LOCAL)) if reference.startswith(LOCAL) else None


def _existing_directory(reference: str) -> Path | None:
    directory = local_directory(reference)
    if directory is not None and not directory.is_dir():
        raise UserError(f"model directory {directory} (from '{reference}') does not exist")
    return directory


def _sample(path: Path) -> bytes:
    """Size, first and last 64 KiB of a file: tells apart weights without reading gigabytes."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        head = handle.read(EDGE)
        handle.seek(max(0, size - EDGE))
        return str(size).encode() + head + handle.read()


@cache
def model_identity(reference: str) -> str:
    """A text that changes when the model behind ``reference`` does.

    Raises:
        UserError: a local directory does not exist.
    """
    directory = _existing_directory(reference)
    if directory is None:
        return reference
    hasher = hashlib.sha256()
    for path in sorted(p for p in directory.rglob("*") if p.is_file() and p.suffix != ".md"):
        hasher.update(path.relative_to(directory).as_posix().encode() + b"\0" + _sample(path))
    return f"sha256:{hasher.hexdigest()[:16]}"


@cache
def clip_identity(reference: str, pretrained: str | None) -> str:
    """As ``model_identity``, of a CLIP whose weights may be a file of one's own: then its content counts too.

    Raises:
        UserError: a local directory does not exist.
    """
    identity = model_identity(reference)
    if pretrained is None or not Path(pretrained).is_file():
        return identity
    return f"{identity}+sha256:{hashlib.sha256(_sample(Path(pretrained))).hexdigest()[:16]}"


@cache
def tokenizer_identity(reference: str) -> str:
    """A text that changes when the tokenizer of the CLIP behind ``reference`` does.

    Raises:
        UserError: a local directory does not exist.
    """
    directory = _existing_directory(reference)
    if directory is None:
        return reference
    content = b"".join(path.read_bytes() for path in sorted(directory.glob("tokenizer*.json")))
    return f"sha256:{hashlib.sha256(content).hexdigest()[:16]}"


def llm_identity(llm: LlmSettings) -> str:
    """A text that changes when the language model of the captions does; of a server, the model's name.

    Raises:
        UserError: a local directory or its GGUF file does not exist.
    """
    directory = local_directory(llm.model)
    if llm.url is not None:
        return f"server:{llm.model}"
    if directory is None:
        return llm.model
    if llm.gguf is not None:
        return file_identities("captions.llm.gguf", (str(directory / llm.gguf),)).popitem()[1]
    return model_identity(llm.model)


def file_identities(key: str, patterns: Sequence[str]) -> dict[str, str]:
    """For every file that the patterns of config key ``key`` name, a text that changes with it.

    Raises:
        UserError: a pattern names no file.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        paths = matching(pattern)
        if not paths:
            raise UserError(f"{key}: there is no file '{pattern}'; mend the path")
        found |= {str(path): f"sha256:{hashlib.sha256(_sample(path)).hexdigest()[:16]}" for path in paths}
    return found


@cache
def label_identity(reference: str) -> str:
    """A text that changes when the label set behind ``reference`` does: a hash of the file, shipped or one's own."""
    shipped = files("t2ipal.labelsets").joinpath(f"{reference}.yaml")
    source = shipped if shipped.is_file() else Path(reference)
    if not source.is_file():
        return reference
    return f"sha256:{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}"
