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
from t2ipal.synthesis.gate import to_bytes
from t2ipal.synthesis.generator import Generator, load

EMBEDDED = Path(__file__).parents[2] / "src" / "t2ipal" / "pack" / "models" / "text-to-image"
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


def limited(generator: Generator, monkeypatch: pytest.MonkeyPatch, part: str, most: int) -> list[int]:
    """Let a part of the pipeline run out of memory above ``most`` images; returns the sizes that it was asked for."""
    import torch

    module = getattr(generator.pipeline, part)
    forward, sizes = module.forward if part == "unet" else module.decode, []

    def run(rows: Any, *args: Any, **keys: Any) -> Any:
        sizes.append(len(rows) // (2 if part == "unet" else 1))  # guidance doubles the rows
        if sizes[-1] > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return forward(rows, *args, **keys)

    monkeypatch.setattr(module, "forward" if part == "unet" else "decode", run)
    return sizes


@pytest.mark.parametrize(("part", "doing"), [("unet", "denoising"), ("vae", "decoding")])
def test_a_batch_that_does_not_fit_is_halved_and_the_smaller_size_kept(
    generator: Generator,
    pipeline_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    part: str,
    doing: str,
) -> None:
    small = Generator(generator.pipeline, base_settings(pipeline_dir))
    prompts, seeds = [f"dog {index}" for index in range(11)], list(range(11))
    expected = generator.draw(prompts, seeds)
    sizes = limited(small, monkeypatch, part, 4)
    images = small.draw(prompts, seeds)
    np.testing.assert_allclose(np.stack(images), np.stack(expected), atol=1e-5)
    assert list(dict.fromkeys(sizes)) == [11, 6, 3, 2]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"too small for {doing} 11 images at once: 3 at once from here on" in said
    sizes.clear()
    small.draw(prompts, seeds)
    assert max(sizes) == 3
    assert capsys.readouterr().err == ""


def test_memory_too_small_for_one_image_is_one_sentence(
    generator: Generator, pipeline_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Generator(generator.pipeline, base_settings(pipeline_dir))
    limited(small, monkeypatch, "unet", 0)
    with pytest.raises(UserError, match=r"too small for denoising one image; lower synthesis\.height"):
        small.draw(["a dog"] * 3, [1, 2, 3])


def test_captions_of_no_word_and_of_500_words_are_drawn(generator: Generator) -> None:
    images = generator.draw(["", "dog " * 500, "dog " * 501], [1, 1, 1])
    assert np.abs(images[0] - images[1]).max() > 1e-4
    np.testing.assert_allclose(images[1], images[2], atol=1e-5)


def test_prompts_that_lose_tokens_are_told(generator: Generator) -> None:
    # 16 tokens with both ends, a letter each; spaces are none.
    assert generator.truncated(["", "a dog", "a" * 14, "a" * 15, "dog " * 500]) == [False, False, False, True, True]
    assert generator.truncated([]) == []


def test_every_tokenizer_has_a_say(generator: Generator, pipeline_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import copy

    second = copy.deepcopy(generator.pipeline.tokenizer)
    second.model_max_length = 6
    monkeypatch.setattr(generator.pipeline, "tokenizer_2", second, raising=False)
    assert generator.truncated(["dog", "a dog x"]) == [False, True]


def test_cores_are_spare_unless_denoising_takes_them(
    generator: Generator, pipeline_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(4)))
    for threads, spare in ((1, 3), (4, 0), (8, 0)):
        monkeypatch.setattr("torch.get_num_threads", lambda threads=threads: threads)
        assert generator.spare_cores == spare
    elsewhere = Generator(generator.pipeline, base_settings(pipeline_dir))
    monkeypatch.setattr(type(generator.pipeline), "device", "cuda:0")
    assert elsewhere.spare_cores == 3
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {2})
    assert elsewhere.spare_cores == 1


def psnr(images: Any, others: Any) -> Any:
    """Peak signal-to-noise ratio in dB of each pair of 8-bit images [N, H, W, 3]."""
    errors = (np.asarray(images, float) - np.asarray(others, float)) ** 2
    return 10 * np.log10(255**2 / np.maximum(errors.mean(axis=(1, 2, 3)), 1e-9))


@pytest.fixture(scope="module")
def embedded() -> Callable[[int, int], Any]:
    """Draw the first ``count`` images of a list with the embedded model, ``size`` at a time."""
    model = load(base_settings(EMBEDDED, steps=8, height=64, width=64), "cpu")
    names = "dog", "cat", "bus", "person", "chair", "boat", "bird"
    prompts = [f"a photo of a {names[index % 7]} and a {names[index // 7 % 7]}" for index in range(50)]

    def draw(count: int, size: int) -> Any:
        parts = [slice(first, min(first + size, count)) for first in range(0, count, size)]
        drawn = [image for part in parts for image in model.draw(prompts[part], [*range(50)][part])]
        return np.stack([to_bytes(image) for image in drawn])

    return draw


# Measured over 50 images of 64 x 64, 8 steps, in batches of 1, 7 and 50: at least 71 dB, no value more than one level
# apart. 60 dB is a root mean square error of a quarter of one of the 256 levels.
LEAST_PSNR = 60.0


def test_the_batch_size_changes_rounding_only(embedded: Callable[[int, int], Any]) -> None:
    together, alone = embedded(7, 7), embedded(7, 1)
    assert psnr(together, alone).min() > LEAST_PSNR
    assert psnr(together[:-1], together[1:]).max() < LEAST_PSNR / 2


@pytest.mark.slow
def test_batches_of_1_7_and_50_change_rounding_only(embedded: Callable[[int, int], Any]) -> None:
    by_size = [embedded(50, size) for size in (1, 7, 50)]
    for images, others in ((0, 1), (0, 2), (1, 2)):
        assert psnr(by_size[images], by_size[others]).min() > LEAST_PSNR
        assert np.abs(by_size[images].astype(int) - by_size[others]).max() <= 2
