"""LoRA weights, merged into the model that they change: drawing is as fast as without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from t2ipal.errors import UserError
from t2ipal.hub import first_line
from t2ipal.identity import local_directory
from t2ipal.synthesis.complaints import complaint

_SUFFIX = ".safetensors"


def _weights_file(directory: Path, name: str | None) -> str:
    """The file to read in a local directory.

    Raises:
        UserError: it is not there, or nothing says which of several it is.
    """
    if not directory.is_dir():
        raise UserError(f"LoRA directory '{directory}' (config key 'synthesis.lora') does not exist")
    if name is not None:
        if not (directory / name).is_file():
            raise UserError(f"LoRA file '{directory / name}' (config key 'synthesis.lora_file') does not exist")
        return name
    there = sorted(path.name for path in directory.glob(f"*{_SUFFIX}"))
    if len(there) != 1:
        found = f"holds {', '.join(there)}" if there else f"holds no *{_SUFFIX} file"
        raise UserError(f"LoRA directory '{directory}' (config key 'synthesis.lora') {found}; set synthesis.lora_file")
    return there[0]


def merge(pipeline: Any, reference: str, name: str | None, scale: float) -> None:
    """Add ``scale`` times the LoRA weights ``reference`` (hub id or ``local-dir:PATH``) to the pipeline's.

    Raises:
        UserError: they are missing, damaged, or made for another model; or PEFT is not installed.
    """
    from diffusers.utils import is_peft_available
    from safetensors import SafetensorError

    if not is_peft_available():
        raise UserError("synthesis.lora needs the package peft, which is not installed: pip install peft")
    if not hasattr(pipeline, "load_lora_weights"):
        raise UserError(f"synthesis.lora: a {type(pipeline).__name__} takes no LoRA; set it to null")
    if name is not None and not name.endswith(_SUFFIX):
        raise UserError(f"synthesis.lora_file '{name}' is not a {_SUFFIX} file: others could run code; choose one")
    directory = local_directory(reference)
    file = name if directory is None else _weights_file(directory, name)
    try:
        pipeline.load_lora_weights(str(directory or reference), weight_name=file, use_safetensors=True)
        adapted = any(pipeline.get_list_adapters().values())
        if adapted:
            pipeline.fuse_lora(lora_scale=scale)
            pipeline.unload_lora_weights()
    except SafetensorError as error:
        raise UserError(f"cannot load synthesis.lora '{reference}': {first_line(error)}; restore the file") from error
    except Exception as error:
        raise UserError(complaint("synthesis.lora", reference, error)) from error
    if not adapted:
        raise UserError(
            f"synthesis.lora '{reference}' holds no weights for a {type(pipeline).__name__}; choose another"
        )
