"""A model's directory, as training or export wrote it, and the CLIP that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from t2ipal.errors import UserError
from t2ipal.evaluation.calibration import Calibration, of_model
from t2ipal.features.backbone import ImageEncoder, load_images
from t2ipal.features.towers import HUB
from t2ipal.identity import LOCAL, clip_identity, local_directory
from t2ipal.io import file_sha256
from t2ipal.learning import models
from t2ipal.learning.heads import Head
from t2ipal.learning.models import Scorer

# Where the CLIP is in an exported directory that has it, and the entry of the description that says so.
CLIP_WEIGHTS = "clip/open_clip_model.safetensors"
CLIP_SHA256 = "clip_sha256"


@dataclass(frozen=True)
class Saved:
    """What a model's directory holds: description, head and calibration (none for one that has learned nothing)."""

    directory: Path
    description: dict[str, Any]
    head: Scorer
    calibration: Calibration | None

    @property
    def features(self) -> dict[str, Any]:
        """The settings of the features that it was made from."""
        found: dict[str, Any] = self.description["features"]
        return found


def read(directory: Path, device: str = "cpu") -> Saved:
    """Read a model's directory; its head is brought to the device.

    Raises:
        UserError: there is none, it is damaged, of another version, or of a method that scores no single image.
    """
    if not directory.is_dir():
        raise UserError(f"there is no model directory '{directory}'; name one of results/training, or an exported one")
    description, head = models.read_description(directory), models.load(directory, device)
    if isinstance(head, Head) and head.normalise:
        raise UserError(
            f"model {directory} standardises its scores over all images of a test set (method "
            f"'{description.get('method')}'), so it cannot recognise single images; choose another method"
        )
    if not isinstance(description.get("features"), dict) or "backbone" not in description["features"]:
        raise UserError(f"model {directory} does not say which CLIP it belongs to; train it again")
    return Saved(directory, description, head, of_model(description, len(head.labels), directory))


def encoder(saved: Saved, backbone: str | Path | None, device: str) -> ImageEncoder:
    """The image tower of the CLIP that a model belongs to.

    It is the one that is named; else the one in the model's directory; else the one that was trained with, by its hub
    id or name, in its local directory, or in the package.

    Args:
        saved: the model.
        backbone: a directory in open_clip's layout, a file of weights, or a hub id.
        device: of the tower.

    Raises:
        UserError: it cannot be loaded, or is another one than the model was trained with.
    """
    settings = saved.features
    if backbone is not None:
        named = _named(str(backbone), settings)
        found = _loaded(saved, named, device)
        if local_directory(named["backbone"]) is not None:
            _check_same(saved, found)
        return found
    weights = saved.directory / CLIP_WEIGHTS
    if CLIP_SHA256 in saved.description:
        if not weights.is_file() or file_sha256(weights) != saved.description[CLIP_SHA256]:
            raise UserError(f"model {saved.directory}: {weights} is missing or damaged; restore it, or name the CLIP")
        return _loaded(saved, {**settings, "backbone": f"{LOCAL}{weights.parent}", "pretrained": None}, device)
    found = _loaded(saved, {**settings, "backbone": _recorded(saved)}, device)
    _check_same(saved, found)
    return found


def _loaded(saved: Saved, settings: dict[str, Any], device: str) -> ImageEncoder:
    try:
        return load_images(settings, device)
    except UserError as error:
        raise UserError(f"model {saved.directory} cannot be used without its CLIP: {error}") from error


def _named(given: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with the CLIP that a user names."""
    if given.startswith((LOCAL, HUB)):
        return {**settings, "backbone": given, "pretrained": None}
    path = Path(given)
    if path.is_file():
        return {**settings, "pretrained": given}
    if path.is_dir() or not settings["pretrained"]:
        return {**settings, "backbone": f"{LOCAL}{given}", "pretrained": None}
    return {**settings, "backbone": given}


def _recorded(saved: Saved) -> str:
    """The reference that was trained with, or the package's own CLIP if that is what it stood for."""
    reference: str = saved.features["backbone"]
    directory, wanted = local_directory(reference), saved.features.get("model_identity")
    if directory is None or (directory.is_dir() and clip_identity(reference, None) == wanted):
        return reference
    own = f"{LOCAL}{files('t2ipal.pack').joinpath('models/clip')}"
    if clip_identity(own, None) == wanted:
        return own
    state = "has changed" if directory.is_dir() else "is not there"
    raise UserError(
        f"model {saved.directory} belongs to the CLIP in {directory}, which {state}; name the directory where that "
        "CLIP lies (--backbone DIR), or export the model with it"
    )


def _check_same(saved: Saved, found: ImageEncoder) -> None:
    """Refuse another CLIP; of one that is known by its name, the size of its features alone can be compared."""
    wanted = str(saved.features.get("model_identity", found.identity))
    if found.identity != wanted and wanted.startswith("sha256:"):
        raise UserError(
            f"model {saved.directory} belongs to the CLIP {wanted}, not to '{found.name}' ({found.identity}); "
            "name the one that it was trained with"
        )
