"""The shipped models: whole, small, half precision, in the public layouts."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open

MODELS = Path(__file__).resolve().parents[2] / "src/t2ipal/pack/models"


def test_weights_are_half_precision_safetensors_of_at_most_25_megabytes() -> None:
    weights = list(MODELS.rglob("*.safetensors"))
    assert len(weights) == 4
    assert sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file()) < 25e6
    for path in weights:
        with safe_open(path, "pt") as handle:
            kinds = {handle.get_slice(key).get_dtype() for key in handle.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}, path
    assert not [path for path in MODELS.rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".ckpt")]


def test_clip_training_warps_and_recolours_but_keeps_range() -> None:
    import numpy as np

    from t2ipal.pack.clip import augment, misplace, preprocess

    pixels = [np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8) for i in range(4)]
    batch = augment(pixels, np.random.default_rng(0))
    assert batch.shape == (4, 3, 96, 96) and batch.abs().max() <= 2
    assert (batch - preprocess(pixels)).abs().mean() > 0.05
    texts = [str(i) for i in range(1000)]
    moved = misplace(texts, np.random.default_rng(0))
    assert sorted(moved) == sorted(texts)
    assert 60 < sum(a != b for a, b in zip(moved, texts, strict=True)) < 140
