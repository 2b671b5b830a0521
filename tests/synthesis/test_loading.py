"""Pipelines set up as configured: variants, the hub's cache, savings of memory, compilation."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from t2ipal.errors import UserError
from t2ipal.settings import SynthesisSettings
from t2ipal.synthesis.generator import load

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def settings(directory: Path | str, **changes: Any) -> dict[str, Any]:
    model = f"local-dir:{directory}" if isinstance(directory, Path) else directory
    chosen = {"model": model, "steps": 2, "height": 16, "width": 16, **changes}
    return SynthesisSettings(**chosen).model_dump(mode="json")


def draw(chosen: dict[str, Any]) -> Any:
    return load(chosen, "cpu").draw(["a dog"], [1])[0]


@pytest.fixture(scope="module")
def variant_dir(pipeline_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pipeline with its weights under the names of variant fp16 alone."""
    directory = tmp_path_factory.mktemp("variant") / "pipeline"
    shutil.copytree(pipeline_dir, directory)
    for path in list(directory.rglob("*.safetensors")):
        path.rename(path.with_name(f"{path.stem}.fp16.safetensors"))
    return directory


def test_weights_of_a_variant_are_the_ones_that_are_loaded(pipeline_dir: Path, variant_dir: Path) -> None:
    assert (draw(settings(variant_dir, variant="fp16")) == draw(settings(pipeline_dir))).all()


@pytest.mark.parametrize("variant", ["fp16", "ema"])
def test_a_variant_that_is_not_there_is_one_sentence(pipeline_dir: Path, variant: str) -> None:
    with pytest.raises(UserError, match=r"has no weights of the variant that synthesis\.variant names"):
        load(settings(pipeline_dir, variant=variant), "cpu")


@pytest.fixture
def hub(pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a model that lies in the hub's cache, with the hub out of reach."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for module in ("diffusers.pipelines.pipeline_utils", "diffusers.configuration_utils", "huggingface_hub.constants"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(tmp_path), raising=False)
    repository = tmp_path / "models--somebody--tiny"
    shutil.copytree(pipeline_dir, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "v1").write_text(COMMIT)
    return "somebody/tiny"


def test_a_hub_id_is_loaded_from_the_cache_at_its_revision(hub: str, pipeline_dir: Path) -> None:
    expected = draw(settings(pipeline_dir))
    assert (draw(settings(hub, revision="v1")) == expected).all()
    assert (draw(settings(hub, revision=COMMIT)) == expected).all()
    with pytest.raises(UserError, match=r"'somebody/tiny' is not in the cache and the hub cannot be reached"):
        load(settings(hub, revision="v2"), "cpu")


def test_the_safety_checker_of_a_model_without_one_cannot_be_kept(pipeline_dir: Path) -> None:
    with pytest.raises(UserError, match=r"synthesis\.safety_checker: model .* has none; set it to false"):
        load(settings(pipeline_dir, safety_checker=True), "cpu")


def test_a_part_that_is_needed_only_for_the_checker_is_needed_with_it(pipeline_dir: Path, tmp_path: Path) -> None:
    directory = tmp_path / "pipeline"
    shutil.copytree(pipeline_dir, directory)
    index = json.loads((directory / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (directory / "model_index.json").write_text(json.dumps(index))
    assert load(settings(directory), "cpu").pipeline.safety_checker is None
    with pytest.raises(UserError, match="lacks its part 'safety_checker'"):
        load(settings(directory, safety_checker=True), "cpu")


def test_attention_is_fused_and_images_lie_channels_last(pipeline_dir: Path) -> None:
    pipeline = load(settings(pipeline_dir), "cpu").pipeline
    kinds = {type(processor).__name__ for processor in pipeline.unet.attn_processors.values()}
    assert kinds == {"AttnProcessor2_0"}
    assert pipeline.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert pipeline.vae.decoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


def test_attention_in_slices_draws_the_same_picture(pipeline_dir: Path) -> None:
    sliced = load(settings(pipeline_dir, attention_slicing=True), "cpu")
    kinds = {type(processor).__name__ for processor in sliced.pipeline.unet.attn_processors.values()}
    assert kinds == {"SlicedAttnProcessor"}
    np.testing.assert_allclose(sliced.draw(["a dog"], [1])[0], draw(settings(pipeline_dir)), atol=1e-4)


def test_tiles_decode_images_one_by_one(pipeline_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiled = load(settings(pipeline_dir, vae_tiling=True), "cpu")
    vae, sizes = tiled.pipeline.vae, []
    assert vae.use_tiling
    decode = vae._decode
    monkeypatch.setattr(vae, "_decode", lambda z, **keys: sizes.append(len(z)) or decode(z, **keys))
    images = tiled.draw(["a dog"] * 3, [1, 2, 3])
    assert sizes == [1, 1, 1]
    np.testing.assert_allclose(images[0], draw(settings(pipeline_dir)), atol=1e-4)


def test_tiles_of_a_model_that_knows_none_are_refused(pipeline_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_there(vae: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr("diffusers.AutoencoderKL.enable_tiling", not_there)
    with pytest.raises(UserError, match=r"synthesis\.vae_tiling: the model .* cannot do it"):
        load(settings(pipeline_dir, vae_tiling=True), "cpu")


def test_the_denoiser_and_nothing_else_is_compiled(pipeline_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(type(module).__name__))
    load(settings(pipeline_dir), "cpu")
    assert compiled == []
    load(settings(pipeline_dir, compile=True), "cpu")
    assert compiled == ["UNet2DConditionModel"]


def test_a_compiler_that_fails_is_one_sentence(pipeline_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def backend(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler found")

    plain = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: plain(module, backend=backend))
    generator = load(settings(pipeline_dir, compile=True), "cpu")
    with pytest.raises(UserError, match=r"synthesis\.compile: .*no compiler found.*; set it to false"):
        generator.draw(["a dog"], [1])


def test_the_libraries_do_not_repeat_for_every_batch_what_the_stage_says_once(
    pipeline_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    generator = load(settings(pipeline_dir), "cpu")
    caplog.clear()
    for name in ("diffusers", "transformers"):
        logging.getLogger(name).addHandler(caplog.handler)
    try:
        generator.draw(["a dog " * 100], [1])
    finally:
        for name in ("diffusers", "transformers"):
            logging.getLogger(name).removeHandler(caplog.handler)
    assert caplog.records == []
