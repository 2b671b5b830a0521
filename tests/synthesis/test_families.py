"""Pipelines taken apart give the bits of their own single call; others are called as they are."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from t2ipal.settings import SynthesisSettings
from t2ipal.synthesis.families import Fused, Latents, StableDiffusion, StableDiffusionXL, family
from t2ipal.synthesis.generator import Generator, load

PROMPTS = ["a dog on a sofa", "", "a cat " * 250]
SEEDS = [3, 2**62, 5]


def settings(directory: Path, **changes: Any) -> dict[str, Any]:
    chosen = {"model": f"local-dir:{directory}", "steps": 2, "height": 16, "width": 16, **changes}
    return SynthesisSettings(**chosen).model_dump(mode="json")


@torch.inference_mode()
def in_one_call(generator: Generator) -> Any:
    """What the pipeline itself gives."""
    chosen = generator.settings
    negative = {"negative_prompt": [chosen["negative_prompt"]] * 3} if chosen["negative_prompt"] else {}
    return generator.pipeline(
        prompt=PROMPTS,
        num_inference_steps=chosen["steps"],
        guidance_scale=chosen["guidance"],
        height=chosen["height"],
        width=chosen["width"],
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="pt",
        **negative,
    )


def taken_apart(generator: Generator) -> Tensor:
    return torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in generator.draw(PROMPTS, SEEDS)])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"guidance": 0.0},
        {"negative_prompt": "blurred"},
        {"scheduler": "EulerAncestralDiscreteScheduler", "steps": 3},
        {"scheduler": "LCMScheduler", "guidance": 1.0, "steps": 4},
        {"height": 24, "width": 16},
    ],
)
def test_stable_diffusion_taken_apart_gives_the_bits_of_one_call(pipeline_dir: Path, changes: dict[str, Any]) -> None:
    generator = load(settings(pipeline_dir, **changes), "cpu")
    assert type(generator.family) is StableDiffusion
    assert torch.equal(taken_apart(generator), in_one_call(generator).images)


def test_a_denoiser_that_takes_the_guidance_scale_is_run_once_per_step(pipeline_dir: Path) -> None:
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler, UNet2DConditionModel

    parts = load(settings(pipeline_dir), "cpu").pipeline
    torch.manual_seed(1)
    unet = UNet2DConditionModel.from_config(parts.unet.config, time_cond_proj_dim=8).eval()
    pipeline = LatentConsistencyModelPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=unet,
        scheduler=LCMScheduler.from_config(parts.scheduler.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    generator = Generator(pipeline, settings(pipeline_dir, guidance=8.0, steps=4))
    assert type(generator.family) is StableDiffusion
    assert set(generator.condition(PROMPTS)) == {"prompt_embeds"}
    assert torch.equal(taken_apart(generator), in_one_call(generator).images)


@pytest.fixture(scope="module")
def xl(pipeline_dir: Path) -> Any:
    """An SDXL pipeline of random weights."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    parts = load(settings(pipeline_dir), "cpu").pipeline
    torch.manual_seed(2)
    config = parts.text_encoder.config.to_dict() | {"hidden_size": 8, "projection_dim": 12, "num_attention_heads": 2}
    second = CLIPTextModelWithProjection(CLIPTextConfig(**config)).eval()
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=(2, 4),
        cross_attention_dim=16 + 8,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 12,
        norm_num_groups=8,
        use_linear_projection=True,
    ).eval()
    pipeline = StableDiffusionXLPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        text_encoder_2=second,
        tokenizer=parts.tokenizer,
        tokenizer_2=parts.tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize(
    "changes", [{}, {"guidance": 0.0, "steps": 1}, {"negative_prompt": "blurred"}, {"height": 24, "width": 32}]
)
def test_sdxl_taken_apart_gives_the_bits_of_one_call(xl: Any, pipeline_dir: Path, changes: dict[str, Any]) -> None:
    generator = Generator(xl, settings(pipeline_dir, **changes))
    assert type(generator.family) is StableDiffusionXL
    assert torch.equal(taken_apart(generator), in_one_call(generator).images)


def test_latents_of_sdxl_are_denormalised_by_mean_and_deviation(
    xl: Any, pipeline_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = Generator(xl, settings(pipeline_dir))
    plain = taken_apart(generator)
    changed = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.0, 2.0, 0.5, 1.5]}
    monkeypatch.setattr(xl.vae, "_internal_dict", type(xl.vae.config)({**xl.vae.config, **changed}))
    assert torch.equal(taken_apart(generator), in_one_call(generator).images)
    assert not torch.equal(taken_apart(generator), plain)


def test_sdxl_in_half_precision_decodes_in_full_once_and_for_all(xl: Any, pipeline_dir: Path) -> None:
    import copy

    half = copy.deepcopy(xl).to(torch.float16)
    driven = family(half, settings(pipeline_dir))
    assert (half.vae.dtype, half.unet.dtype) == (torch.float32, torch.float16)
    images, _ = driven.decode(Latents(torch.zeros(1, 4, 8, 8, dtype=torch.float16)))
    assert images.dtype == torch.float32


def test_a_watermark_is_applied_as_the_pipeline_does(
    xl: Any, pipeline_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xl, "watermark", SimpleNamespace(apply_watermark=lambda images: images * 0 + 1))
    assert (taken_apart(Generator(xl, settings(pipeline_dir))) == 1).all()


class Unknown:
    """A pipeline of no known family that draws its seeds."""

    device = torch.device("cpu")

    def __call__(
        self,
        prompt: list[str],
        num_inference_steps: int,
        guidance_scale: float,
        height: int,
        width: int,
        generator: list[torch.Generator],
        output_type: str,
    ) -> Any:
        images = torch.stack([torch.rand(3, height, width, generator=each) for each in generator])
        images[:, :, 0, 0] = torch.tensor([len(text) / 1000 for text in prompt])[:, None]
        return SimpleNamespace(images=images, nsfw_content_detected=[len(text) > 99 for text in prompt])


def test_an_unknown_pipeline_is_called_as_it_is(pipeline_dir: Path) -> None:
    generator = Generator(Unknown(), settings(pipeline_dir))
    assert type(generator.family) is Fused
    assert torch.equal(taken_apart(generator), in_one_call(generator).images)
    _, blanked = generator.decode(generator.denoise(generator.condition(PROMPTS), SEEDS))
    assert blanked == [False, False, True]


def test_denoising_can_be_broken_off_between_steps(pipeline_dir: Path) -> None:
    class Enough(Exception):  # noqa: N818
        pass

    generator = load(settings(pipeline_dir, steps=4), "cpu")
    steps: list[int] = []

    def after_two() -> None:
        steps.append(len(steps))
        if len(steps) == 2:
            raise Enough

    with pytest.raises(Enough):
        generator.denoise(generator.condition(PROMPTS), SEEDS, after_two)
    assert len(steps) == 2


def add_checker(directory: Path, threshold: float) -> None:
    """Give a pipeline a safety checker of random weights that blanks at a similarity above ``threshold``."""
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    torch.manual_seed(3)
    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        vision_config={**tower, "image_size": 16, "patch_size": 8, "projection_dim": 8},
        text_config={**tower, "vocab_size": 8},
        projection_dim=8,
    )
    checker = StableDiffusionSafetyChecker(config)
    checker.concept_embeds_weights.data.fill_(threshold)
    checker.special_care_embeds_weights.data.fill_(2.0)
    checker.save_pretrained(directory / "safety_checker")
    size = {"height": 16, "width": 16}
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size).save_pretrained(directory / "feature_extractor")
    index = directory / "model_index.json"
    parts = {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "requires_safety_checker": True,
    }
    index.write_text(json.dumps(json.loads(index.read_text()) | parts))


@pytest.fixture(scope="module")
def checked_dir(pipeline_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checked") / "pipeline"
    shutil.copytree(pipeline_dir, directory)
    add_checker(directory, -1.5)
    return directory


def test_a_safety_checker_that_is_kept_blanks_and_says_so(checked_dir: Path) -> None:
    generator = load(settings(checked_dir, safety_checker=True), "cpu")
    images, blanked = generator.decode(generator.denoise(generator.condition(PROMPTS), SEEDS))
    assert blanked == [True] * 3
    assert all((image == 0).all() for image in images)
    expected = in_one_call(generator)
    assert expected.nsfw_content_detected == blanked
    assert torch.equal(taken_apart(generator), expected.images)


def test_a_safety_checker_that_finds_nothing_changes_nothing(checked_dir: Path) -> None:
    generator = load(settings(checked_dir, safety_checker=True), "cpu")
    generator.pipeline.safety_checker.concept_embeds_weights.data.fill_(1.5)
    images, blanked = generator.decode(generator.denoise(generator.condition(PROMPTS), SEEDS))
    assert blanked == [False] * 3
    assert torch.equal(taken_apart(generator), in_one_call(generator).images)
    assert all(image.max() > 0 for image in images)


def test_a_safety_checker_that_is_off_is_not_even_loaded(
    checked_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "without"
    shutil.copytree(checked_dir, directory)
    shutil.rmtree(directory / "safety_checker")
    generator = load(settings(directory), "cpu")
    assert generator.pipeline.safety_checker is None
    assert not [record for record in caplog.records if "safety" in record.getMessage()]
    _, blanked = generator.decode(generator.denoise(generator.condition(PROMPTS), SEEDS))
    assert blanked == [False] * 3
