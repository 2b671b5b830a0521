"""LoRA weights: merged once and for all, or one sentence."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from t2ipal.errors import UserError
from t2ipal.settings import SynthesisSettings
from t2ipal.synthesis.generator import load

TARGET = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
FILE = "pytorch_lora_weights.safetensors"


def settings(directory: Path, **changes: Any) -> dict[str, Any]:
    chosen = {"model": f"local-dir:{directory}", "steps": 2, "height": 16, "width": 16, **changes}
    return SynthesisSettings(**chosen).model_dump(mode="json")


def write(path: Path, target: str = f"unet.{TARGET}", width: int = 32, seed: int = 0) -> tuple[Any, Any]:
    """LoRA weights of rank 2 for one projection; returns its two factors."""
    generator = torch.Generator().manual_seed(seed)
    down, up = torch.randn(2, width, generator=generator), torch.randn(width, 2, generator=generator)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({f"{target}.lora_A.weight": down, f"{target}.lora_B.weight": up}, path)
    return down, up


def weight(generator: Any) -> Any:
    return generator.pipeline.unet.get_submodule(TARGET).weight.detach()


def test_the_factors_times_the_scale_are_added_to_the_weights(pipeline_dir: Path, tmp_path: Path) -> None:
    down, up = write(tmp_path / FILE)
    plain = load(settings(pipeline_dir), "cpu")
    adapted = load(settings(pipeline_dir, lora=f"local-dir:{tmp_path}", lora_scale=0.5), "cpu")
    np.testing.assert_allclose(weight(adapted), weight(plain) + 0.5 * up @ down, atol=1e-5)
    assert type(adapted.pipeline.unet.get_submodule(TARGET)) is torch.nn.Linear
    images = [generator.draw(["a dog"], [1])[0] for generator in (plain, adapted)]
    assert np.abs(images[0] - images[1]).max() > 0.01


def test_a_file_among_several_is_chosen_by_name(pipeline_dir: Path, tmp_path: Path) -> None:
    write(tmp_path / "first.safetensors", seed=1)
    down, up = write(tmp_path / "second.safetensors", seed=2)
    chosen = {"lora": f"local-dir:{tmp_path}", "lora_file": "second.safetensors"}
    plain, adapted = load(settings(pipeline_dir), "cpu"), load(settings(pipeline_dir, **chosen), "cpu")
    np.testing.assert_allclose(weight(adapted), weight(plain) + up @ down, atol=1e-5)


@pytest.mark.parametrize(
    ("files", "changes", "sentence"),
    [
        ({}, {"lora": "local-dir:/nowhere"}, r"'/nowhere' .*synthesis\.lora.* does not exist"),
        ({}, {}, r"holds no \*\.safetensors file; set synthesis\.lora_file"),
        ({"a.safetensors": {}, "b.safetensors": {}}, {}, r"holds a\.safetensors, b\.safetensors; set synthesis\.lora"),
        ({FILE: {}}, {"lora_file": "other.safetensors"}, r"other\.safetensors.*synthesis\.lora_file.* does not exist"),
        ({FILE: {}}, {"lora_file": "weights.bin"}, r"'weights\.bin' is not a \.safetensors file"),
        ({FILE: {"target": "elsewhere.to_q"}}, {}, r"synthesis\.lora "),
        ({FILE: {"target": "unet.no.such.layer"}}, {}, r"synthesis\.lora "),
        ({FILE: {"width": 24}}, {}, r"synthesis\.lora "),
        ({FILE: None}, {}, r"synthesis\.lora "),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    pipeline_dir: Path, tmp_path: Path, files: dict[str, Any], changes: dict[str, Any], sentence: str
) -> None:
    for name, content in files.items():
        if content is None:
            (tmp_path / name).write_bytes(b"damaged")
        else:
            write(tmp_path / name, **content)
    with pytest.raises(UserError, match=sentence) as caught:
        load(settings(pipeline_dir, **{"lora": f"local-dir:{tmp_path}", **changes}), "cpu")
    assert "\n" not in str(caught.value)


def test_without_peft_it_is_one_sentence(pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusers.utils.is_peft_available", lambda: False)
    write(tmp_path / FILE)
    with pytest.raises(UserError, match=r"synthesis\.lora needs the package peft"):
        load(settings(pipeline_dir, lora=f"local-dir:{tmp_path}"), "cpu")
