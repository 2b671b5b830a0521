"""Schedulers by name and options, good and bad."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from t2ipal.errors import UserError
from t2ipal.settings import SynthesisSettings
from t2ipal.synthesis.generator import load
from t2ipal.synthesis.schedulers import scheduler_of, schedulers


@pytest.fixture(scope="module")
def pipeline() -> Any:
    """All that is asked of a pipeline."""
    from diffusers import DDIMScheduler

    return SimpleNamespace(scheduler=DDIMScheduler(steps_offset=1, clip_sample=False, beta_end=0.015))


def test_a_scheduler_of_another_class_keeps_what_the_models_own_says(pipeline: Any) -> None:
    found = scheduler_of(pipeline, "EulerDiscreteScheduler", {}, 5)
    assert type(found) is schedulers()["EulerDiscreteScheduler"]
    assert found.config.beta_end == 0.015
    assert found.config.timestep_spacing != "trailing"


def test_options_change_it(pipeline: Any) -> None:
    options = {"timestep_spacing": "trailing", "use_karras_sigmas": True}
    found = scheduler_of(pipeline, "DPMSolverMultistepScheduler", options, 5)
    assert {name: found.config[name] for name in options} == options
    assert found.config.beta_end == 0.015


def test_options_alone_change_the_models_own(pipeline: Any) -> None:
    found = scheduler_of(pipeline, None, {"timestep_spacing": "trailing"}, 5)
    assert type(found) is type(pipeline.scheduler)
    assert found.config.timestep_spacing == "trailing"
    assert pipeline.scheduler.config.timestep_spacing == "leading"


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("EulerDiscrete", {}, r"'EulerDiscrete' is no scheduler of diffusers; did you mean EulerDiscreteScheduler"),
        ("euler", {}, r"'euler' is no scheduler of diffusers; did you mean .*EulerDiscreteScheduler"),
        ("DPM++", {}, r"'DPM\+\+' is no scheduler of diffusers; did you mean \w*DPM"),
        ("zzz", {}, r"choose one of .*DDIMScheduler, .*UniPCMultistepScheduler"),
        ("SchedulerMixin", {}, "is no scheduler"),
        ("StableDiffusionPipeline", {}, "is no scheduler"),
        (None, {"timestep_spacin": "trailing"}, r"no option 'timestep_spacin'; did you mean timestep_spacing"),
        ("EulerDiscreteScheduler", {"clip_sample": False}, "EulerDiscreteScheduler has no option 'clip_sample'"),
        (None, {"timestep_spacing": "odd"}, r"scheduler_options: DDIMScheduler refuses timestep_spacing='odd'"),
        (None, {"set_alpha_to_one": True, "beta_schedule": "odd"}, r"refuses beta_schedule='odd'"),
        (None, {"num_train_timesteps": "many"}, r"refuses num_train_timesteps='many'"),
        ("FlowMatchEulerDiscreteScheduler", {}, r"cannot use a FlowMatch\w+ \(it has no scale_model_input\)"),
        ("RePaintScheduler", {}, r"cannot use a RePaintScheduler \(its step needs (mask|original_image)\)"),
        ("ScoreSdeVeScheduler", {}, "cannot use a ScoreSdeVeScheduler"),
        ("VQDiffusionScheduler", {}, "VQDiffusionScheduler refuses this model's settings"),
        ("LCMScheduler", {}, "LCMScheduler refuses this model's settings or 60 steps"),
    ],
)
def test_what_does_not_fit_is_one_sentence_that_names_it(
    pipeline: Any, name: str | None, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        scheduler_of(pipeline, name, options, 60)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("synthesis.scheduler")


def test_no_scheduler_that_exists_makes_drawing_fail_without_a_sentence(pipeline_dir: Path) -> None:
    chosen = SynthesisSettings(model=f"local-dir:{pipeline_dir}", steps=2, height=16, width=16)
    generator = load(chosen.model_dump(mode="json"), "cpu")
    own, usable = generator.pipeline.scheduler, []
    for name in schedulers():
        generator.pipeline.scheduler = own
        try:
            generator.pipeline.scheduler = scheduler_of(generator.pipeline, name, {}, 2)
            generator.draw(["a dog"], [1])
            usable.append(name)
        except UserError:
            continue
    common = {"DDIM", "DDPM", "EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep", "LCM", "UniPCMultistep"}
    assert {f"{name}Scheduler" for name in common} <= set(usable)
    assert "FlowMatchEulerDiscreteScheduler" not in usable


def test_a_scheduler_in_the_settings_is_the_one_that_draws(pipeline_dir: Path) -> None:
    chosen = SynthesisSettings(
        model=f"local-dir:{pipeline_dir}", scheduler="LCMScheduler", scheduler_options={"timestep_scaling": 5.0}
    )
    scheduler = load(chosen.model_dump(mode="json"), "cpu").pipeline.scheduler
    assert type(scheduler).__name__ == "LCMScheduler"
    assert scheduler.config.timestep_scaling == 5.0
