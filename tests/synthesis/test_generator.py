"""Loading pipelines, good and bad, and drawing with them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t2ipal.errors import UserError
from t2ipal.settings import SynthesisSettings
from t2ipal.synthesis.generator import Generator, load

UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT_ENCODER = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def generator(pipeline_dir: Path) -> Generator:
    return load(base_settings(pipeline_dir), "cpu")


def base_settings(directory: Path, **changes: Any) -> dict[str, Any]:
    chosen = {"model": f"local-dir:{directory}", "steps": 2, "height": 16, "width": 16, **changes}
    return SynthesisSettings(**chosen).model_dump(mode="json", exclude={"device"})


def test_random_weights_load_from_a_local_directory_and_draw(generator: Generator) -> None:
    images = generator.draw(["a dog", "a cat"], [1, 2])
    assert [image.shape for image in images] == [(16, 16, 3)] * 2
    assert images[0].dtype == np.float32
    assert all(0 <= image.min() < image.max() <= 1 for image in images)


def test_the_seed_decides_the_noise_and_the_neighbours_do_not(generator: Generator) -> None:
    first, second, third = generator.draw(["a dog"] * 3, [1, 2, 1])
    assert np.abs(first - second).max() > 0.05
    np.testing.assert_allclose(first, third, atol=1e-5)
    alone = generator.draw(["a dog"], [1])[0]
    np.testing.assert_allclose(alone, first, atol=1e-5)


def test_drawing_twice_gives_the_same_bits(generator: Generator) -> None:
    once, again = (np.stack(generator.draw(["a dog", "a cat"], [1, 2])) for _ in range(2))
    assert (once == again).all()


def test_nan_reaches_the_caller_as_nan(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = generator.pipeline.vae.decode
    monkeypatch.setattr(generator.pipeline.vae, "decode", lambda z, **keys: decode(z * float("nan"), **keys))
    assert np.isnan(generator.draw(["a dog"], [1])[0]).all()


def test_a_negative_prompt_changes_the_image(generator: Generator, pipeline_dir: Path) -> None:
    other = Generator(generator.pipeline, base_settings(pipeline_dir) | {"negative_prompt": "blurry, dark"})
    assert (other.draw(["a dog", "a cat"], [1, 2])[0] != generator.draw(["a dog", "a cat"], [1, 2])[0]).any()


def test_a_size_that_the_pipeline_refuses_is_a_sentence(generator: Generator, pipeline_dir: Path) -> None:
    other = Generator(generator.pipeline, base_settings(pipeline_dir) | {"height": 17})
    with pytest.raises(UserError, match=r"refuses: .*divisible by 8"):
        other.draw(["a dog"], [1])


def test_a_pipeline_without_a_needed_argument_is_refused_by_name(pipeline_dir: Path) -> None:
    class Narrow:
        def __call__(self, prompt: str, num_inference_steps: int, guidance_scale: float) -> None: ...

    with pytest.raises(UserError, match="is a Narrow, which does not take 'height'"):
        Generator(Narrow(), base_settings(pipeline_dir))


def test_half_precision_on_the_cpu_becomes_float32(pipeline_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    half = load(base_settings(pipeline_dir) | {"dtype": "float16"}, "cpu")
    assert half.pipeline.unet.dtype == torch.float32
    assert "float32 on the CPU" in capsys.readouterr().err


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop_tensor(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    del weights[sorted(weights)[3]]
    save_file(weights, path, metadata={"format": "pt"})


def set_class(directory: Path, name: Any) -> None:
    index = directory / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": name}))


def add_code(directory: Path) -> None:
    (directory / "unet" / "custom.py").write_text(
        f"import pathlib\npathlib.Path({str(directory / 'ran')!r}).touch()\nclass Custom: pass\n"
    )
    index = directory / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"unet": ["custom", "Custom"]}))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda d: shutil.rmtree(d), "does not exist"),
        (lambda d: (d / "model_index.json").unlink(), r"model_index\.json.* missing"),
        (lambda d: (d / "model_index.json").write_text("{"), r"model_index\.json.* damaged"),
        (lambda d: (d / "model_index.json").write_text("[]"), "describes no pipeline"),
        (lambda d: set_class(d, "DDPMPipeline"), "is not a text-to-image pipeline"),
        (lambda d: set_class(d, ["custom", "Custom"]), "describes no pipeline"),
        (lambda d: shutil.rmtree(d / "unet"), "lacks its part 'unet'"),
        (lambda d: shutil.rmtree(d / "tokenizer"), "lacks its part 'tokenizer'"),
        (lambda d: (d / UNET).unlink(), "diffusion_pytorch_model.safetensors"),
        (lambda d: truncate(d / UNET), "diffusion_pytorch_model.safetensors"),
        (lambda d: truncate(d / TEXT_ENCODER), r"model\.safetensors"),
        (lambda d: drop_tensor(d / UNET), "lack tensors"),
        (lambda d: drop_tensor(d / TEXT_ENCODER), "lack tensors"),
        (add_code, "cannot load"),
    ],
)
def test_a_bad_model_directory_is_one_sentence(
    damage: Callable[[Path], None], sentence: str, pipeline_dir: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "model"
    shutil.copytree(pipeline_dir, directory)
    damage(directory)
    with pytest.raises(UserError, match=sentence) as caught:
        load(base_settings(directory), "cpu")
    assert "\n" not in str(caught.value)
    assert "synthesis.model" in str(caught.value)
    assert not (directory / "ran").exists()


def test_the_hub_out_of_reach_is_one_sentence(monkeypatch: pytest.MonkeyPatch, pipeline_dir: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    settings = base_settings(pipeline_dir) | {"model": "nobody/no-such-model", "revision": "main"}
    with pytest.raises(UserError, match=r"'nobody/no-such-model' is not in the cache and the hub cannot be reached"):
        load(settings, "cpu")
