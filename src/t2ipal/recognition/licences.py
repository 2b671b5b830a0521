"""Under which terms the models and texts are that a recogniser was made with, as far as it is known."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from t2ipal.acquisition.catalogue import items
from t2ipal.identity import LOCAL, local_directory, model_identity

UNKNOWN = "not known to t2ipal: see the page of the model"
_PACK = "Apache-2.0; trained on drawings of OpenMoji (CC BY-SA 4.0)"
_DRAWN = "; pictures that it draws are shared under CC BY-SA 4.0 with attribution"
# Beginnings of hub ids; the terms as their pages state them.
_KNOWN = {
    "stable-diffusion-v1-5/": "CreativeML OpenRAIL-M",
    "runwayml/stable-diffusion": "CreativeML OpenRAIL-M",
    "compvis/stable-diffusion": "CreativeML OpenRAIL-M",
    "stabilityai/stable-diffusion-2": "CreativeML Open RAIL++-M",
    "stabilityai/stable-diffusion-xl": "CreativeML Open RAIL++-M",
    "stabilityai/sd-turbo": "Stability AI's own; it restricts commercial use",
    "stabilityai/sdxl-turbo": "Stability AI's own; it restricts commercial use",
}
_LICENCE = re.compile(r"^license(?:_name)?:\s*[\"']?([^\s\"'#]+)", re.MULTILINE)


def of_clip(features: dict[str, Any]) -> str:
    """The terms of the CLIP in the settings of features."""
    if features["pretrained"] == "openai":
        return "MIT (OpenAI)"
    if _is_own("clip", features.get("model_identity")):
        return _PACK
    return _of(features["backbone"])


def of_generator(synthesis: dict[str, Any]) -> str:
    """The terms of the text-to-image model in the settings of images."""
    if _is_own("text-to-image", synthesis.get("model_identity")):
        return _PACK + _DRAWN
    return _of(synthesis["model"])


def _is_own(name: str, identity: str | None) -> bool:
    return identity == model_identity(f"{LOCAL}{files('t2ipal.pack').joinpath('models', name)}")


def _of(reference: str) -> str:
    """The terms of a known model, or what the card in its directory states."""
    known = next((terms for start, terms in _KNOWN.items() if reference.lower().startswith(start)), None)
    directory = local_directory(reference)
    return known or (UNKNOWN if directory is None else _stated(directory) or UNKNOWN)


def _stated(directory: Path) -> str | None:
    """``license:`` in the header of a model card."""
    try:
        text = (directory / "README.md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    header = text.split("---", 2)[1] if text.startswith("---") and text.count("---") > 1 else ""
    found = _LICENCE.search(header)
    return found[1] if found else None


def of_texts(settings: dict[str, Any]) -> list[str]:
    """The terms of the corpora that captions were taken from."""
    identities = set(settings.get("identities", {}).values())
    return [f"{item.name}: {item.terms} ({item.home})" for item in items().values() if item.identity in identities]
