"""The frozen CLIP: loading by hub id, local directory or name, and its features of images and text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from t2ipal.errors import UserError
from t2ipal.features import catalogue, image_tower, positions, precision, towers, weights
from t2ipal.features.dense import Grid, image_features, text_features
from t2ipal.identity import clip_identity, local_directory

# open_clip's names of the ways to bring images to a square, and ours.
_RESIZES = {"shortest": "crop", "squash": "squash", "longest": "pad"}


@dataclass(frozen=True)
class ImageEncoder:
    """A frozen CLIP's image tower. All features are L2-normalised float32."""

    name: str
    identity: str
    visual: Any
    transform: Callable[[Image.Image], Tensor]
    device: torch.device
    dtype: torch.dtype
    attnpool_positional: bool
    input_size: int
    resize: str

    @property
    def preprocessing(self) -> str:
        """How images become the tower's input, as it appears in protocol ids."""
        return f"{self.resize}{self.input_size}"

    def encode_images(self, images: Sequence[Image.Image]) -> tuple[Tensor, Tensor, Grid]:
        """Images -> global [N, D], local [N, L, D], grid (rows, columns) with rows * columns = L; on the CPU."""
        return self.encode_pixels(torch.stack([self.transform(image.convert("RGB")) for image in images]))

    def encode_pixels(self, batch: Tensor) -> tuple[Tensor, Tensor, Grid]:
        """As ``encode_images``, of what ``transform`` made of the images: [N, 3, H, W], on any device."""
        global_, local, grid = self.dense(batch)
        return global_.cpu(), local.cpu(), grid

    @torch.inference_mode()
    def dense(self, batch: Tensor) -> tuple[Tensor, Tensor, Grid]:
        """As ``encode_pixels``, but what it gives stays on the tower's device.

        Raises:
            UserError: the features are not finite.
        """
        batch = batch.to(self.device, self.dtype, memory_format=torch.channels_last)
        global_, local, grid = image_features(self.visual, batch, self.attnpool_positional)
        return self._normalised(global_), self._normalised(local), grid

    def _normalised(self, features: Tensor) -> Tensor:
        found = functional.normalize(features.float(), dim=-1)
        if not bool(torch.isfinite(found).all()):
            kind = str(self.dtype).removeprefix("torch.")
            raise UserError(
                f"backbone '{self.name}' gave features that are not finite in {kind}; set another precision"
            )
        return found


@dataclass(frozen=True)
class Backbone(ImageEncoder):
    """A frozen CLIP, whose image tower is ``model.visual``. What it gives is on the CPU."""

    model: Any
    tokenizer: Callable[[list[str]], Tensor]

    @torch.inference_mode()
    def encode_text(self, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Texts -> global [N, D], local [N, T, D] (zero beyond end-of-text), lengths [N]."""
        tokens = self.tokenizer(texts).to(self.device)
        global_, local, length = text_features(self.model, tokens)
        return self._normalised(global_).cpu(), self._normalised(local).cpu(), length.cpu()


def load(settings: dict[str, Any], device: str = "cpu", key: str = "features.backbone") -> Backbone:
    """Load the CLIP that ``FeatureSettings`` (as a dict) describes, frozen, in evaluation mode.

    ``key`` is the config key that errors name. Settings without ``input_size`` and ``resize`` leave both to the model.

    Raises:
        UserError: the model or checkpoint is unknown, does not fit, or was trained with another activation; files
            are missing, damaged or unsafe; the hub cannot be reached. Names the key.
    """
    path = _located(settings, key)
    model, tokenizer = _open(settings, path, key)
    return Backbone(model=model, tokenizer=tokenizer, **_fields(settings, model, model.visual, device))


def load_images(settings: dict[str, Any], device: str = "cpu", key: str = "features.backbone") -> ImageEncoder:
    """The image tower of ``load`` alone: its text tower is neither built nor, of safetensors, read.

    Weights that have to be converted before they fit are read as a whole, and the text tower is let go.

    Raises:
        UserError: see ``load``.
    """
    path = _located(settings, key)
    name, pretrained = _opened_name(settings, path), settings["pretrained"]
    visual = image_tower.alone(name, pretrained, precision.NAMES[settings["precision"]], path)
    if visual is None:
        visual = _open(settings, path, key)[0].visual
    else:
        weights.check_positions(path, nn.ModuleDict({"visual": visual}), settings["backbone"], key)
    return ImageEncoder(**_fields(settings, visual, visual, device))


def _located(settings: dict[str, Any], key: str) -> Path:
    """The safe file of weights of a CLIP that can be used."""
    reference, pretrained, size = settings["backbone"], settings["pretrained"], settings.get("input_size")
    wrong = towers.problem(reference, pretrained, size, key)
    if wrong is not None:
        raise UserError(wrong)
    path = weights.locate(reference, pretrained, size, key)
    weights.check_safe(path, key)
    return path


def _fields(settings: dict[str, Any], model: Any, visual: Any, device: str) -> dict[str, Any]:
    """What an encoder is made of; ``model``, of which ``visual`` is a part, is frozen and brought to the device."""
    transform, size, resize = _prepare(visual, settings.get("input_size"), settings.get("resize"))
    dtype = precision.DTYPES[settings["precision"]]
    if dtype != torch.float32:
        precision.cast(model, dtype)
    model.to(device=device, memory_format=torch.channels_last).eval().requires_grad_(False)
    return {
        "name": settings["backbone"],
        "identity": clip_identity(settings["backbone"], settings["pretrained"]),
        "visual": visual,
        "transform": transform,
        "device": torch.device(device),
        "dtype": dtype,
        "attnpool_positional": settings["attnpool_positional"],
        "input_size": size,
        "resize": resize,
    }


def _opened_name(settings: dict[str, Any], path: Path) -> str:
    """The model as open_clip calls it; says so where a file of weights leaves its activation open."""
    reference, pretrained = settings["backbone"], settings["pretrained"]
    scheme = local_directory(reference) is not None or reference.startswith(towers.HUB)
    name: str = reference if scheme else catalogue.canonical(reference)
    if not scheme and path == Path(pretrained) and catalogue.twin(name) in catalogue.models():
        _say_activation(path, name)
    return name


def _open(settings: dict[str, Any], path: Path, key: str) -> tuple[Any, Any]:
    """Model and tokenizer. Weights are required: without, open_clip would leave the model at random."""
    import open_clip

    reference, name = settings["backbone"], _opened_name(settings, path)
    try:
        model: Any = open_clip.create_model_from_pretrained(
            name, settings["pretrained"], precision=precision.NAMES[settings["precision"]], return_transform=False
        )
        tokenizer: Any = open_clip.get_tokenizer(name)
    except Exception as error:
        raise UserError(weights.complaint(path, reference, key, error)) from error
    weights.check_positions(path, model, reference, key)
    return model, tokenizer


def _say_activation(path: Path, name: str) -> None:
    twin, ways = catalogue.twin(name), ("without", "with")
    first, second = ways if twin.endswith("-quickgelu") else reversed(ways)
    print(
        f"t2ipal features: {path} does not say whether it was trained with QuickGELU, as OpenAI's weights were: "
        f"'{name}' computes {first}, '{twin}' {second}",
        file=sys.stderr,
        flush=True,
    )


def _prepare(visual: Any, size: int | None, resize: str | None) -> tuple[Any, int, str]:
    """Fit the tower to the input size, none: its own; the transform of images for it, that size, and the resizing."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    own = PreprocessCfg(**visual.preprocess_cfg)
    height, width = own.input_size[1:]
    if size is not None and (height, width) != (size, size):
        positions.resize(visual, size)
    side = size or height
    resize = resize or _RESIZES[own.resize_mode]
    modes = {ours: theirs for theirs, ours in _RESIZES.items()}
    transform = image_transform_v2(replace(own, size=(side, side), resize_mode=modes[resize]), is_train=False)
    return transform, side, resize
