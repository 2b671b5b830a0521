"""What can be known to be wrong before the first job: results, label set, models; and a claim on the results."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from pathlib import Path
from typing import IO

from t2ipal.config import Config
from t2ipal.errors import UserError
from t2ipal.features import towers
from t2ipal.identity import local_directory
from t2ipal.labels import LabelSet
from t2ipal.openmoji.drawings import check_drawn
from t2ipal.settings import CaptionSettings

# What each kind of local model must hold at the least, beside weights.
CLIP_INDEX = towers.INDEX
PIPELINE_INDEX = "model_index.json"
_TOKENIZER = "captions.tokenizer"

_claims: list[IO[bytes]] = []


def check(config: Config) -> None:
    """Check the results directory and the local models of ``config``.

    Raises:
        UserError: the first thing that is wrong.
    """
    check_writable(Path(config.results))
    check_place(Path(config.benchmark.downloads), "benchmark.downloads")
    check_labels(config)
    check_backbones(config)
    check_model(config.synthesis.model, PIPELINE_INDEX, "synthesis.model")
    check_captions(config.captions)


def _unwritable(directory: Path, error: OSError, key: str = "results") -> UserError:
    name = key.rpartition(".")[2]
    return UserError(f"cannot write to {name} directory '{directory}' (config key '{key}'): {error.strerror}")


def check_writable(directory: Path, key: str = "results") -> None:
    """Make the directory if need be and try it, as access bits say little about root and network mounts.

    Raises:
        UserError: it cannot be made or written to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise _unwritable(directory, error, key) from None


def check_place(directory: Path, key: str) -> None:
    """Check that nothing but directories is on the way to one that may not be there yet.

    Raises:
        UserError: a file is.
    """
    existing = next(path for path in (directory.absolute(), *directory.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise UserError(f"'{existing}' is no directory, as config key '{key}' ('{directory}') needs one there")


def claim(results: Path) -> None:
    """Hold ``results`` for this process until it ends, however it ends.

    Raises:
        UserError: another process holds it, or it cannot be written to.
    """
    try:
        results.mkdir(parents=True, exist_ok=True)
        handle = (results / ".claim").open("ab")
    except OSError as error:
        raise _unwritable(results, error) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise UserError(f"another run is writing to results directory '{results}'; wait for it to end") from None
    except OSError:
        # A file system without locks: running unclaimed is better than not running.
        handle.close()
        return
    _claims.append(handle)


def check_labels(config: Config) -> None:
    """Check that the label set can be read and that the embedded benchmark has a drawing of every class.

    Raises:
        UserError: names the label set or the class.
    """
    names = LabelSet.load(config.benchmark.labels).names
    if config.benchmark.name == "openmoji":
        check_drawn(names)


def check_backbones(config: Config) -> None:
    """Check that every CLIP that is named can be used, as far as its name or its directory tells.

    Raises:
        UserError: names the key, and what is wrong with the model, the checkpoint or the input size.
    """
    features, verification = config.features, config.verification
    chosen = [("features", features.backbone, features.pretrained, features.input_size)]
    for number, choice in enumerate(config.backbones):
        chosen.append((f"backbones[{number}]", choice.backbone, choice.pretrained, features.input_size))
    if verification.backbone is not None:
        chosen.append(("verification", verification.backbone, verification.pretrained, None))
    for section, reference, pretrained, size in chosen:
        key = f"{section}.backbone"
        check_model(reference, CLIP_INDEX, key)
        wrong = towers.problem(reference, pretrained, size, key)
        if wrong is not None:
            raise UserError(wrong)


def check_captions(captions: CaptionSettings) -> None:
    """Check what of the captions' sources can be checked without loading a model: files, directories, the cache.

    Raises:
        UserError: names the config key and what is wrong.
    """
    check_tokenizer(captions.tokenizer)
    if "llm" in captions.used:
        from t2ipal.captions.llm import open_model

        open_model(captions.llm)


def check_tokenizer(reference: str) -> None:
    """Check that a local tokenizer is all there, or that there is a CLIP of that name.

    Raises:
        UserError: names the file that is missing, or the model.
    """
    directory = local_directory(reference)
    wrong = None if directory is not None or reference.startswith(towers.HUB) else towers.unknown(reference, _TOKENIZER)
    if wrong is not None:
        raise UserError(wrong)
    for name in ("tokenizer.json", CLIP_INDEX):
        if directory is not None and not (directory / name).is_file():
            raise UserError(f"{_TOKENIZER}: {directory / name} is missing; restore it or name another CLIP")


def check_model(reference: str, index: str, key: str) -> None:
    """Check that a local model is all there: its index, its JSON files, every weights file to its last byte.

    Hub ids and model names pass. ``key`` is the config key for the sentence.

    Raises:
        UserError: names the file that is missing or damaged.
    """
    directory = local_directory(reference)
    if directory is None:
        return
    if not directory.is_dir():
        raise UserError(f"model directory '{directory}' (config key '{key}') does not exist")
    if not (directory / index).is_file():
        raise UserError(f"model file '{directory / index}' (config key '{key}') is missing")
    weights = sorted(directory.rglob("*.safetensors"))
    if not weights:
        raise UserError(f"model directory '{directory}' (config key '{key}') holds no *.safetensors file")
    for path in [*sorted(directory.rglob("*.json")), *weights]:
        problem = _json_problem(path) if path.suffix == ".json" else _weights_problem(path)
        if problem:
            raise UserError(f"model file '{path}' (config key '{key}') is damaged: {problem}; restore it")


def _json_problem(path: Path) -> str | None:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"not readable as JSON ({type(error).__name__})"
    return None


def _weights_problem(path: Path) -> str | None:
    """What the header of a safetensors file tells: 8 bytes of its length, JSON with offsets, then the data."""
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if not 2 <= length <= size - 8:
                return "its header is cut off"
            header = json.loads(handle.read(length))
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its header is unreadable ({type(error).__name__})"
    expected = 8 + length + int(end)
    return None if size == expected else f"{size} bytes instead of {expected}"
