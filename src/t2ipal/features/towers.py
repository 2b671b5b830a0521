"""Which CLIPs fit, told from names and configurations alone, before anything is downloaded or drawn."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2ipal.features import catalogue
from t2ipal.identity import local_directory

HUB = "hf-hub:"
INDEX = "open_clip_config.json"
SIZE_KEY = "features.input_size"
# A ResNet's, and a ConvNeXt's, image side per position of its last feature map.
STRIDE = 32
_WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_EXAMPLES = "RN50-quickgelu, ViT-B-16-quickgelu, ..."


def problem(
    reference: str, pretrained: str | None, input_size: int | None = None, key: str = "features.backbone"
) -> str | None:
    """Why the CLIP of ``FeatureSettings`` cannot be used, as one sentence with the mend; None if nothing speaks so.

    Imports neither torch nor open_clip and opens no connection, so a model of the hub is not looked into; weights
    are looked at by ``t2ipal.features.weights``. ``key`` is the config key of ``reference``.
    """
    section = key.rpartition(".")[0]
    directory = local_directory(reference)
    if directory is not None or reference.startswith(HUB):
        if pretrained is not None:
            return f"{section}.pretrained is for a model's name, and '{reference}' brings its weights; leave it out"
        if directory is None:
            return None
        found = _read(directory, key)
        if isinstance(found, str):
            return found
        return misfit_sentence(reference, found, key) or size_problem(found, input_size)
    name = catalogue.canonical(reference)
    config = catalogue.config(name)
    if config is None:
        return unknown(reference, key)
    return misfit_sentence(reference, config, key) or (
        _unpublished(name, pretrained, bool(config.get("quick_gelu", False)), section)
        or size_problem(config, input_size)
    )


def model_config(document: Any) -> dict[str, Any] | None:
    """The model's part of a parsed ``open_clip_config.json``; None if it is no such document."""
    found = document.get("model_cfg") if isinstance(document, dict) else None
    needed = ("embed_dim", "vision_cfg", "text_cfg")
    return found if isinstance(found, dict) and all(name in found for name in needed) else None


def _read(directory: Path, key: str) -> dict[str, Any] | str:
    """The model's configuration in a local directory, or why there is none."""
    path = directory / INDEX
    try:
        found = model_config(json.loads(path.read_text(encoding="utf-8")))
    except OSError:
        return f"{key}: {path} is missing; restore the file or mend the path"
    except ValueError:
        found = None
    return found or f"{key}: {path} does not describe an open_clip model; restore the file"


def misfit_sentence(reference: str, config: Mapping[str, Any], key: str) -> str | None:
    """``misfit`` with the key, the model and the mend."""
    why = misfit(config)
    return why and f"{key}: '{reference}' cannot be used, because {why}; choose a CLIP such as {_EXAMPLES}"


def unknown(reference: str, key: str) -> str | None:
    """A sentence on a model name that open_clip does not know; None if it does, or is not installed."""
    known, name = catalogue.models(), catalogue.canonical(reference)
    if not known or name in known:
        return None
    if Path(reference).is_dir():
        return f"{key}: '{reference}' is a directory; write local-dir:{reference}"
    close = difflib.get_close_matches(name.lower(), [model.lower() for model in known], n=3, cutoff=0.7)
    likely = ", ".join(model for low in close for model in known if model.lower() == low)
    hub = f", or for a model of the hub {HUB}{reference}" if reference.count("/") == 1 else ""
    return (
        f"{key}: open_clip has no model '{reference}'; set {f'{likely} or another name' if likely else _EXAMPLES}{hub}"
    )


def _unpublished(name: str, pretrained: str | None, has_quick: bool, section: str) -> str | None:
    """What is wrong with a checkpoint's tag, or file, for a model that computes with QuickGELU or without."""
    tags = catalogue.checkpoints().get(name, {})
    offered = f"there are {', '.join(tags)}" if tags else "open_clip publishes none"
    if pretrained is None:
        return (
            f"{section}.pretrained is missing: the name '{name}' alone gives a model of random weights; "
            f"set a checkpoint's tag ({offered}) or a file of weights"
        )
    tag = catalogue.clean(pretrained)
    if tag in tags:
        return None if tags[tag] == has_quick else _mismatch(name, pretrained, tags[tag], section)
    if Path(pretrained).is_file() or not catalogue.checkpoints():
        return None
    if "/" in pretrained or pretrained.endswith(_WEIGHTS):
        return f"{section}.pretrained: there is no file '{pretrained}'; mend the path"
    twins = catalogue.checkpoints().get(catalogue.twin(name), {})
    if tag in twins:
        return _mismatch(name, pretrained, twins[tag], section)
    return (
        f"{section}.pretrained: model '{name}' has no checkpoint '{pretrained}'; {offered}; or name a file of weights"
    )


def _mismatch(name: str, tag: str, trained: bool, section: str) -> str:
    """QuickGELU and GELU differ enough to cost accuracy, and too little to be noticed; open_clip only warns."""
    twin, ways = catalogue.twin(name), ("with", "without") if trained else ("without", "with")
    mend = f"set {section}.backbone to '{twin}'" if twin in catalogue.models() else "choose another checkpoint"
    return (
        f"{section}.pretrained: checkpoint '{tag}' was trained {ways[0]} QuickGELU, but model '{name}' computes "
        f"{ways[1]}; {mend}"
    )


def misfit(config: Mapping[str, Any]) -> str | None:
    """Why the towers of an open_clip model give no features as they are needed here; None if they do."""
    return _text_misfit(config) or _image_misfit(config["vision_cfg"])


def _text_misfit(config: Mapping[str, Any]) -> str | None:
    text = config["text_cfg"]
    if config.get("multimodal_cfg") is not None:
        return "CoCa's towers are pooled by learned queries and a class token"
    if text.get("hf_model_name"):
        return f"its text tower is {text['hf_model_name']}, not CLIP's own transformer"
    if text.get("embed_cls"):
        return "its text tower ends in a class token of its own"
    if text.get("no_causal_mask"):
        return "its text tower has no causal mask, as SigLIP's has none, and prompts are learned for causal ones only"
    if text.get("pool_type", "argmax") not in ("argmax", "eos"):
        return f"its text tower pools by '{text['pool_type']}', not at the end-of-text token"
    return None


def _image_misfit(vision: Mapping[str, Any]) -> str | None:
    timm = vision.get("timm_model_name")
    if timm is not None:
        pool = vision.get("timm_pool", "avg")
        fits = timm.startswith("convnext") or (pool in ("map", "token") and _patch(vision) is not None)
        return None if fits else f"dense features are not defined for its image tower {timm} (pooling '{pool}')"
    if vision.get("attentional_pool"):
        return "its image tower is pooled by learned queries"
    if vision.get("pool_type", "tok") not in ("tok", "avg"):
        return f"its image tower pools by '{vision['pool_type']}'"
    return None


def _patch(vision: Mapping[str, Any]) -> int | None:
    """Side of a ViT's patches in pixels; None for another tower."""
    timm = vision.get("timm_model_name")
    if timm is not None:
        named = re.match(r"(?:vit|eva)\w*_patch(\d+)|vit_base_mci", timm)
        return int(named[1] or 16) if named else None
    return None if isinstance(vision.get("layers"), list) else int(vision.get("patch_size") or 16)


def size_problem(config: Mapping[str, Any], input_size: int | None) -> str | None:
    """Why a tower cannot read images of that side; None if it can."""
    vision = config["vision_cfg"]
    own = vision.get("image_size", 224)
    if input_size is None:
        square = not isinstance(own, list) or own[0] == own[1]
        return None if square else f"{SIZE_KEY}: the model reads images of {own[0]} x {own[1]}; set a side for squares"
    step = _patch(vision) or STRIDE
    if input_size % step == 0 or input_size == own:
        return None
    below = max(step, input_size // step * step)
    return (
        f"{SIZE_KEY}: {input_size} is no multiple of {step}, the side of the image tower's positions in pixels; "
        f"set {below} or {below + step}"
    )
