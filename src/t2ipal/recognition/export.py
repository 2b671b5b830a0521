"""``t2ipal export``: one directory that holds all that a recogniser needs, and tells what it is."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2ipal.errors import UserError
from t2ipal.features import catalogue
from t2ipal.features.backbone import ImageEncoder
from t2ipal.features.image_tower import PREFIX
from t2ipal.features.towers import HUB, INDEX, model_config
from t2ipal.identity import local_directory
from t2ipal.io import file_sha256, read_json, write_json, write_text
from t2ipal.learning.models import MODEL_FILE, WEIGHTS_FILE
from t2ipal.recognition import card, saved
from t2ipal.recognition.figures import tables
from t2ipal.recognition.provenance import Provenance
from t2ipal.recognition.recognizer import Prediction, Recognizer
from t2ipal.recognition.saved import CLIP_SHA256, CLIP_WEIGHTS, Saved

LABELS_FILE, CARD_FILE, ONNX_FILE = "labels.json", "README.md", "model.onnx"
_COMPARED = 4
_FILES = {
    MODEL_FILE: "labels, settings, calibration and thresholds",
    WEIGHTS_FILE: "embeddings of the classes and what else was learned",
    LABELS_FILE: "the classes in the order of the scores, with their thresholds",
    "clip": "the image tower of the CLIP; its text tower is not needed",
    ONNX_FILE: "all of it as one graph: image in; scores, probabilities and heatmaps out",
}


def export(
    model: Path,
    output: Path,
    *,
    onnx: bool = False,
    with_backbone: bool = False,
    backbone: str | None = None,
    name: str | None = None,
    licence: str | None = None,
) -> None:
    """Write a recogniser's directory; it appears when it is complete and was seen to predict what the model does.

    Args:
        model: directory of a trained model. If it lies in the results of a run, the card tells what those say.
        output: the directory to write; it must not be there, or be empty.
        onnx: whether to write ``model.onnx``, too.
        with_backbone: whether the image tower of the CLIP goes into it.
        backbone: see ``Recognizer.load``.
        name: of the recogniser; by default that of ``output``.
        licence: of the recogniser, as a model hub calls it.

    Raises:
        UserError: the model or its CLIP is not fit, the output is there already, or the ONNX file cannot be made.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"'{output}' is there already; name another directory, or remove it")
    found = saved.read(model)
    encoder = saved.encoder(found, backbone, "cpu")
    partial = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        partial.mkdir(parents=True)
        _write(partial, found, encoder, onnx, with_backbone, backbone, name or output.resolve().name, licence)
        _check(found, encoder, partial, None if with_backbone else backbone)
        if output.exists():
            output.rmdir()
        os.replace(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"t2ipal: exported to {output}", file=sys.stderr)


def _write(
    folder: Path,
    model: Saved,
    encoder: ImageEncoder,
    onnx: bool,
    with_backbone: bool,
    backbone: str | None,
    name: str,
    licence: str | None,
) -> None:
    description = {key: value for key, value in model.description.items() if key != "history"}
    if with_backbone:
        description[CLIP_SHA256] = _write_clip(folder / CLIP_WEIGHTS, model, backbone)
    shutil.copyfile(model.directory / WEIGHTS_FILE, folder / WEIGHTS_FILE)
    write_json(folder / MODEL_FILE, description)
    classes = _classes(model)
    write_text(folder / LABELS_FILE, json.dumps(classes, indent=2, ensure_ascii=False) + "\n")
    differences = _write_onnx(folder / ONNX_FILE, model, encoder) if onnx else None
    provenance = Provenance.of(model.directory, model.description)
    text = card.render(
        name,
        provenance,
        tables(provenance.evaluations),
        {file: what for file, what in _FILES.items() if (folder / file).exists()},
        classes=classes,
        onnx=differences,
        with_backbone=with_backbone,
        licence=licence,
        version=version("t2ipal"),
    )
    write_text(folder / CARD_FILE, text)


def _classes(model: Saved) -> list[dict[str, Any]]:
    """What is known of each class, in the order of the scores."""
    head = model.description["head"]
    prompts = head.get("prompt_names", model.head.labels)
    entries: list[dict[str, Any]] = [
        {"label": label, "prompt": prompt} for label, prompt in zip(model.head.labels, prompts, strict=True)
    ]
    if model.calibration is not None:
        for key, values in model.calibration.to_dict().items():
            for entry, value in zip(entries, values, strict=True):
                entry[key.removesuffix("s")] = value
    return entries


def _write_clip(path: Path, model: Saved, backbone: str | None) -> str:
    """Write the image tower in open_clip's layout, in half precision where that loses nothing; its hash."""
    from safetensors.torch import save_file

    path.parent.mkdir()
    plain = {key: value for key, value in model.features.items() if key not in ("input_size", "resize")}
    features = {**plain, "precision": "float32"}
    encoder = saved.encoder(replace(model, description={**model.description, "features": features}), backbone, "cpu")
    tensors = {}
    for name, tensor in encoder.visual.state_dict().items():
        halved = tensor.half() if tensor.is_floating_point() else tensor
        tensors[f"{PREFIX}{name}"] = (halved if bool((halved == tensor).all()) else tensor).contiguous().clone()
    save_file(tensors, path)
    path.chmod(0o644)  # it is written for its owner alone
    preprocessing = dict(encoder.visual.preprocess_cfg)
    write_json(path.with_name(INDEX), {"model_cfg": _model_config(encoder.name), "preprocess_cfg": preprocessing})
    return file_sha256(path)


def _model_config(reference: str) -> dict[str, Any]:
    """The configuration of a CLIP that has been loaded."""
    directory = local_directory(reference)
    if directory is None and not reference.startswith(HUB):
        found = catalogue.config(catalogue.canonical(reference))
    elif directory is None:
        from huggingface_hub import hf_hub_download

        found = model_config(
            read_json(Path(hf_hub_download(reference.removeprefix(HUB), INDEX, local_files_only=True)))
        )
    else:
        found = model_config(read_json(directory / INDEX))
    if found is None:
        raise UserError(f"the configuration of CLIP '{reference}' cannot be found; leave --with-backbone out")
    return found


def _noise(side: int) -> NDArray[np.uint8]:
    """Images [N, S, S, 3] to compare on: what a model makes of them does not matter."""
    coarse = np.random.default_rng(0).integers(0, 256, (_COMPARED, 8, 8, 3), dtype=np.uint8)
    return coarse.repeat(-(-side // 8), axis=1).repeat(-(-side // 8), axis=2)[:, :side, :side].copy()


def _write_onnx(path: Path, model: Saved, encoder: ImageEncoder) -> dict[str, float]:
    import torch

    from t2ipal.recognition.graph import write_onnx

    if encoder.dtype != torch.float32:
        raise UserError(f"--onnx is for image towers in float32, and the model's is in {encoder.dtype}; leave it out")
    return write_onnx(path, encoder, model.head, model.calibration, _noise(encoder.input_size))


def _check(model: Saved, encoder: ImageEncoder, folder: Path, backbone: str | None) -> None:
    """Refuse an export that does not predict what the model does."""
    images = _noise(encoder.input_size)
    again = Recognizer.load(folder, "cpu", backbone)
    pairs = zip(Recognizer(model, encoder).predict(images), again.predict(images), strict=True)
    for before, after in pairs:
        if not (isinstance(before, Prediction) and isinstance(after, Prediction)):
            raise UserError(f"model {model.directory} cannot be exported: it reads no image")
        if before.labels != after.labels or not np.array_equal(before.scores, after.scores):
            raise UserError(f"model {model.directory} predicts otherwise once it is exported; report this")
