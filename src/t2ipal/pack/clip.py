"""Contrastive pre-training of the small CLIP on scenes and alt texts, and its open_clip ``local-dir:`` layout."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from t2ipal.io import atomic_path, write_json
from t2ipal.openmoji.drawings import class_names
from t2ipal.openmoji.scenes import WEB_STYLE, Pixels, hue_rotation, render, sample_scene
from t2ipal.pack.sittings import Trainee
from t2ipal.pack.texts import alt_text, chatter
from t2ipal.pack.tokenizer import CONTEXT_LENGTH

IMAGE_SIZE = 96
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
MISPLACED = 0.1
WARP = 0.07


def model_config(vocabulary: int) -> dict[str, Any]:
    """The open_clip configuration: a one-block-per-stage ModifiedResNet with attention pool, a 3-layer text tower."""
    return {
        "embed_dim": 128,
        "quick_gelu": False,
        "vision_cfg": {"image_size": IMAGE_SIZE, "layers": [1, 1, 1, 1], "width": 16, "head_width": 16},
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": vocabulary,
            "hf_tokenizer_name": "./",
            "tokenizer_kwargs": {"strip_sep_token": False},
            "width": 128,
            "heads": 4,
            "layers": 3,
        },
    }


def _as_batch(images: list[Pixels]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def _normalise(batch: Tensor) -> Tensor:
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return ((batch.clamp(0, 1) - mean) / std).contiguous(memory_format=torch.channels_last)


def preprocess(images: list[Pixels]) -> Tensor:
    """Scenes [64, 64, 3] uint8 -> normalised [N, 3, 96, 96], resized as open_clip's transform does it."""
    return _normalise(functional.interpolate(_as_batch(images), size=IMAGE_SIZE, mode="bicubic", antialias=True))


def _colour_matrices(rng: np.random.Generator, count: int) -> Tensor:
    """[N, 3, 3]: hue rotated by up to 120 degrees, saturation from none (grey) to 1.3, gains of 0.75 to 1.15."""
    hue = rng.uniform(-120, 120, count) * (rng.random(count) < 0.8)
    saturation = np.where(rng.random(count) < 0.15, 0.0, rng.uniform(0.4, 1.3, count))[:, None, None]
    rotation = np.stack([hue_rotation(degrees) for degrees in hue])
    grey = np.full((3, 3), 1 / 3)
    mixed = saturation * rotation + (1 - saturation) * grey
    return torch.from_numpy((mixed * rng.uniform(0.75, 1.15, (count, 3, 1))).astype(np.float32))


def _affine_matrices(rng: np.random.Generator, count: int) -> Tensor:
    """[N, 2, 3] for ``affine_grid``: rotation, slight shear, aspect, zoom, shift."""
    angle, shear = np.radians(rng.uniform(-15, 15, count)), rng.uniform(-0.1, 0.1, count)
    zoom, aspect = np.exp(rng.uniform(-0.25, 0.2, count)), np.exp(rng.uniform(-0.15, 0.15, count))
    matrices = np.zeros((count, 2, 3), dtype=np.float32)
    matrices[:, 0, 0], matrices[:, 0, 1] = np.cos(angle) * zoom * aspect, (shear - np.sin(angle)) * zoom
    matrices[:, 1, 0], matrices[:, 1, 1] = np.sin(angle) * zoom, np.cos(angle) * zoom / aspect
    matrices[:, :, 2] = rng.uniform(-0.12, 0.12, (count, 2))
    return torch.from_numpy(matrices)


def _smooth_field(rng: np.random.Generator, count: int) -> Tensor:
    """[N, H, W, 2]: displacements that vary smoothly over the picture, as another hand would draw the same object."""
    coarse = torch.from_numpy(rng.normal(0, WARP, (count, 2, 4, 4)).astype(np.float32))
    fine = functional.interpolate(coarse, size=IMAGE_SIZE, mode="bicubic", align_corners=True)
    return fine.permute(0, 2, 3, 1)


def augment(images: list[Pixels], rng: np.random.Generator) -> Tensor:
    """As :func:`preprocess`, with random colours, geometry and warps: shapes must count for more than colours."""
    batch = _as_batch(images)
    count = len(batch)
    batch = torch.einsum("nij,njhw->nihw", _colour_matrices(rng, count), batch)
    grid = functional.affine_grid(_affine_matrices(rng, count), [count, 3, IMAGE_SIZE, IMAGE_SIZE], align_corners=False)
    grid = grid + _smooth_field(rng, count)
    warped = functional.grid_sample(batch, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return _normalise(warped)


def misplace(texts: list[str], rng: np.random.Generator) -> list[str]:
    """Give a tenth of the pictures another picture's text, as happens on the web."""
    moved = np.flatnonzero(rng.random(len(texts)) < MISPLACED).tolist()
    shifted = dict(zip(moved, [*moved[1:], *moved[:1]], strict=True))
    return [texts[shifted.get(index, index)] for index in range(len(texts))]


class ClipTrainee(Trainee):
    """InfoNCE between scenes and their alt texts (Radford et al., 2021)."""

    name = "clip"
    batch = 128
    learning_rate = 1.5e-3
    weight_decay = 0.05
    average = 0.995

    def __init__(self, tokenizer: Path) -> None:
        from open_clip.model import CLIP
        from transformers import CLIPTokenizer

        torch.manual_seed(0)
        self.tokenizer = CLIPTokenizer.from_pretrained(tokenizer)
        self.config = model_config(len(self.tokenizer))
        settings = {key: dict(value) if isinstance(value, dict) else value for key, value in self.config.items()}
        self.module = CLIP(**settings).to(memory_format=torch.channels_last)

    def tokens(self, texts: list[str]) -> Tensor:
        """[N, 32] token ids, padded and truncated."""
        encoded = self.tokenizer(
            texts, max_length=CONTEXT_LENGTH, padding="max_length", truncation=True, return_tensors="pt"
        )
        ids: Tensor = encoded.input_ids
        return ids

    def loss(self, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """See the class."""
        scenes = [sample_scene(rng, "train", WEB_STYLE) for _ in range(self.batch)]
        images = augment([render(scene) for scene in scenes], rng)
        texts = self.tokens(misplace([chatter(rng, alt_text(rng, scene)) for scene in scenes], rng))
        image = self.module.encode_image(images, normalize=True)
        text = self.module.encode_text(texts, normalize=True)
        with torch.no_grad():
            self.module.logit_scale.clamp_(0, np.log(100))
        logits = self.module.logit_scale.exp() * image @ text.T
        target = torch.arange(self.batch)
        loss = (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
        return loss, {"scale": float(self.module.logit_scale.detach().exp())}

    @cached_property
    def _validation(self) -> tuple[Tensor, np.ndarray[Any, np.dtype[np.bool_]]]:
        rng = np.random.default_rng(7)
        scenes = [sample_scene(rng, "val") for _ in range(400)]
        labels = np.array([[name in scene.labels() for name in class_names()] for scene in scenes])
        return preprocess([render(scene) for scene in scenes]), labels

    @torch.inference_mode()
    def measure(self) -> dict[str, float]:
        """Zero-shot mAP of the global feature on 400 validation scenes."""
        from sklearn.metrics import average_precision_score

        images, labels = self._validation
        shown = [{"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}.get(n, n)
                 for n in class_names()]  # fmt: skip
        text = self.module.encode_text(self.tokens([f"a photo of a {name}" for name in shown]), normalize=True)
        scores = self.module.encode_image(images, normalize=True) @ text.T
        return {"zero_shot": float(average_precision_score(labels, scores.numpy(), average="macro"))}


def export(config: dict[str, Any], tensors: dict[str, Tensor], tokenizer: Path, directory: Path) -> None:
    """Write fp16 weights, configuration and tokenizer in the layout that ``local-dir:`` reads."""
    from safetensors.torch import save_file
    from transformers import CLIPTokenizer

    directory.mkdir(parents=True, exist_ok=True)
    CLIPTokenizer.from_pretrained(tokenizer).save_pretrained(directory)
    half = {key: (value.half() if value.is_floating_point() else value).contiguous() for key, value in tensors.items()}
    half.pop("attn_mask", None)
    with atomic_path(directory / "open_clip_model.safetensors") as partial:
        save_file(half, partial)
    preprocessing = {
        "mean": list(MEAN), "std": list(STD), "interpolation": "bicubic", "resize_mode": "shortest",
    }  # fmt: skip
    write_json(directory / "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": preprocessing})
