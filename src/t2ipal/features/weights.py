"""The weights of a CLIP: where they lie, fetched from the hub if need be, and whether they are safe and fit."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2ipal.errors import UserError
from t2ipal.features import catalogue
from t2ipal.features.towers import HUB, INDEX, misfit_sentence, model_config, size_problem
from t2ipal.hub import causes, first_line, refusal
from t2ipal.identity import local_directory

# The name in a directory of open_clip's layout, on disk and on the hub.
NAME = "open_clip_model.safetensors"
_PICKLED = "open_clip_pytorch_model.bin"
_POSITIONS = ("visual.positional_embedding", "positional_embedding", "text.positional_embedding")


def locate(reference: str, pretrained: str | None, input_size: int | None, key: str) -> Path:
    """The file of weights of a model that ``towers.problem`` has nothing against.

    Raises:
        UserError: a file of a local directory is missing, the hub does not give the model or cannot be reached, or
            the model of the hub does not fit.
    """
    directory = local_directory(reference)
    if directory is not None:
        if not (directory / NAME).is_file():
            raise UserError(f"{key}: {directory / NAME} is missing; restore the file or retrain the pack")
        return directory / NAME
    if reference.startswith(HUB):
        return _from_hub(reference, input_size, key)
    name, tag = catalogue.canonical(reference), str(pretrained)
    return _published(name, tag, key) or Path(tag)


def _from_hub(reference: str, input_size: int | None, key: str) -> Path:
    identifier, model = reference.removeprefix(HUB), f"{key} '{reference}'"
    try:
        index = _first(identifier, INDEX)
    except Exception as error:
        raise UserError(_complaint(model, INDEX, error)) from error
    try:
        config = model_config(json.loads(index.read_text(encoding="utf-8")))
    except ValueError:
        config = None
    if config is None:
        raise UserError(f"{model} is no open_clip model: its {INDEX} does not describe one; choose another")
    wrong = misfit_sentence(reference, config, key)
    wrong = wrong or size_problem(config, input_size)
    if wrong:
        raise UserError(wrong)
    try:
        return _first(identifier, NAME, _PICKLED)
    except Exception as error:
        raise UserError(_complaint(model, NAME, error)) from error


def _first(identifier: str, *names: str) -> Path:
    """The first of these files that a model of the hub, or of its cache, has.

    open_clip's own function takes the next file after any failure, and its error is about the last one alone.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    failures: list[EntryNotFoundError] = []
    for name in names:
        # A hub that was out of reach is not waited for again.
        cached = any(isinstance(failure, LocalEntryNotFoundError) for failure in failures)
        try:
            return Path(hf_hub_download(identifier, name, local_files_only=cached))
        except EntryNotFoundError as error:
            failures.append(error)
    raise failures[0]


def _published(name: str, tag: str, key: str) -> Path | None:
    """The file of a published checkpoint, None if the tag is none of them."""
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    source = get_pretrained_cfg(name, tag)
    if not source:
        return None
    identifier, _, file = source["hf_hub"].rpartition("/")
    model = f"checkpoint '{tag}' of {key} '{name}' ({identifier or source['url']})"
    try:
        if identifier and not file:
            return _first(identifier, NAME, _PICKLED)
        return Path(download_pretrained(source))
    except Exception as error:
        raise UserError(_complaint(model, NAME, error)) from error


def _complaint(model: str, file: str, error: BaseException) -> str:
    from huggingface_hub import errors as hub

    if any(isinstance(cause, hub.RemoteEntryNotFoundError) for cause in causes(error)):
        return f"{model} has no {file} on the hub: it is not in open_clip's layout; choose another model"
    return refusal(model, "its revision", error) or f"cannot fetch {model}: {first_line(error)}"


def check_safe(path: Path, key: str) -> None:
    """Refuse a file whose loading could run code.

    open_clip reads safetensors, or has ``torch.load`` read tensors and nothing else; it refuses OpenAI's own
    TorchScript archives with a message about flags of ``torch.load``. Those hold code and are never run here.

    Raises:
        UserError: the file is a TorchScript archive.
    """
    if path.suffix != ".safetensors" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            scripted = any(name.endswith("/constants.pkl") for name in archive.namelist())
        if scripted:
            raise UserError(
                f"{_section(key)}.pretrained: {path} is a TorchScript archive, which is code, and is not run; set the "
                "tag openai, or save its weights as safetensors (docs/backbones.md)"
            )


def check_positions(path: Path, model: Any, reference: str, key: str) -> None:
    """Refuse weights of another input size or text length, which open_clip interpolates without a word.

    ``t2ipal.features.positions`` does so where ``features.input_size`` asks for it.

    Raises:
        UserError: positional embeddings in the file and in ``model``, as it was built, differ in shape.
    """
    own = {name: tuple(value.shape) for name, value in model.named_parameters() if name in _POSITIONS}
    # Files may have the text tower's at the top although the model has it under `text`.
    own |= {name.removeprefix("text."): shape for name, shape in own.items() if name.startswith("text.")}
    for name, shape in _shapes(path).items():
        if name in own and own[name] != shape:
            what = "image" if name.startswith("visual.") else "text"
            raise UserError(
                f"{_weights_of(path, reference, key)} have {shape[0]} {what} positions where the model has "
                f"{own[name][0]}; name the model that they were saved from"
            )


def _shapes(path: Path) -> Mapping[str, tuple[int, ...]]:
    """Shapes of the positional embeddings in a file."""
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            names = set(file.keys())
            return {name: tuple(file.get_slice(name).get_shape()) for name in _POSITIONS if name in names}
    from open_clip.factory import load_state_dict

    state = load_state_dict(str(path))
    return {name: tuple(state[name].shape) for name in _POSITIONS if name in state}


def complaint(path: Path, reference: str, key: str, error: BaseException) -> str:
    """One sentence on why the model ``reference`` was not loaded from its file of weights."""
    if any(isinstance(cause, pickle.UnpicklingError) for cause in causes(error)):
        return (
            f"{_weights_of(path, reference, key)} hold more than tensors, or are damaged, and are not unpickled; "
            "save them as safetensors (docs/backbones.md)"
        )
    # What torch says of missing, unexpected and ill-shaped tensors, and open_clip's assertion on the text's width.
    if "loading state_dict" in str(error) or isinstance(error, AssertionError):
        return (
            f"{_weights_of(path, reference, key)} are of another architecture; name the model that they were saved from"
        )
    return f"cannot load {key} '{reference}': {first_line(error)}; check {path}"


def _weights_of(path: Path, reference: str, key: str) -> str:
    return f"{key} '{reference}': the weights in {path}"


def _section(key: str) -> str:
    return key.rpartition(".")[0]
