"""Pipelines of the hub: a server on the loopback, a new process for which it is the hub, and the way any id takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t2ipal.settings import SynthesisSettings
from t2ipal.synthesis.generator import load

pytestmark = pytest.mark.slow

# Draws with each of the settings given, as the stage does; prints what a user would be told, or the first image.
DRAW = """
import json, sys
from t2ipal.errors import UserError
from t2ipal.settings import SynthesisSettings
from t2ipal.synthesis.generator import load

for settings in json.loads(sys.argv[1]):
    try:
        generator = load(SynthesisSettings(**settings).model_dump(mode="json"), "cpu")
    except UserError as error:
        print(json.dumps(str(error)))
        continue
    print(json.dumps(generator.draw(["a dog"], [1])[0].tolist()))
"""


def chosen(model: str, **changes: Any) -> dict[str, Any]:
    return {"model": model, "steps": 2, "height": 16, "width": 16, **changes}


def draw(hub: Any, cache: Path, *settings: dict[str, Any], **environment: str) -> list[Any]:
    done = hub.run(DRAW, cache, json.dumps(settings), **environment)
    assert "Traceback" not in done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_pipeline_of_the_hub_draws_as_its_directory_does(
    loopback_hub: Any, pipeline_dir: Path, tmp_path: Path
) -> None:
    """Only what is needed is downloaded, and once downloaded it needs the hub no more."""
    published = tmp_path / "published"
    shutil.copytree(pipeline_dir, published)
    for path in ("unet/diffusion_pytorch_model.bin", "text_encoder/model.fp16.safetensors", "whole.safetensors"):
        (published / path).write_bytes(b"none of these is to be read")
    loopback_hub.models["somebody/tiny"] = published
    settings = chosen("somebody/tiny"), chosen("somebody/tiny", revision=loopback_hub.COMMIT)
    (image, pinned) = draw(loopback_hub, tmp_path / "cache", *settings)
    local = SynthesisSettings(**chosen(f"local-dir:{pipeline_dir}")).model_dump(mode="json")
    np.testing.assert_allclose(np.array(image), load(local, "cpu").draw(["a dog"], [1])[0], atol=1e-5)
    assert pinned == image
    large = {path.rpartition("/")[2] for _, path in loopback_hub.requests if path.startswith("/large/")}
    assert large == {"diffusion_pytorch_model.safetensors", "model.safetensors"}
    count = len(loopback_hub.requests)
    assert draw(loopback_hub, tmp_path / "cache", settings[0], HF_HUB_OFFLINE="1") == [image]
    assert len(loopback_hub.requests) == count
    loopback_hub.close()
    assert draw(loopback_hub, tmp_path / "cache", settings[0]) == [image]


def test_what_the_hub_has_and_cannot_draw_is_one_sentence_each(
    loopback_hub: Any, pipeline_dir: Path, tmp_path: Path
) -> None:
    for name in ("tiny", "closed", "clip", "pickled", "incomplete"):
        loopback_hub.models[f"somebody/{name}"] = tmp_path / name
        shutil.copytree(pipeline_dir, tmp_path / name)
    loopback_hub.gated.add("somebody/closed")
    (tmp_path / "clip" / "model_index.json").unlink()
    weights = tmp_path / "pickled" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    (tmp_path / "incomplete" / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    expected = {
        "somebody/nowhere": "synthesis.model 'somebody/nowhere' is not on the hub, or is private; mend the id",
        "somebody/closed": "synthesis.model 'somebody/closed' is gated: accept its terms on the hub and set HF_TOKEN",
        "somebody/clip": "synthesis.model 'somebody/clip' has no model_index.json: it is no pipeline of diffusers",
        "somebody/pickled": "synthesis.model 'somebody/pickled' has no weights as safetensors, and files that could",
        "somebody/incomplete": "cannot load synthesis.model 'somebody/incomplete': Error no file named diffusion",
    }
    told = draw(
        loopback_hub,
        tmp_path / "cache",
        *map(chosen, expected),
        chosen("somebody/tiny", revision="v2"),
        chosen("somebody/tiny", variant="fp16"),
        chosen("somebody/tiny", lora="somebody/nowhere"),
    )
    expected |= {
        "revision": "synthesis.model 'somebody/tiny' has no such revision on the hub; mend synthesis.revision",
        "variant": "'somebody/tiny' has no weights of the variant that synthesis.variant names; mend it",
        "lora": "synthesis.lora 'somebody/nowhere' is not on the hub, or is private; mend the id",
    }
    for part, sentence in zip(expected.values(), told, strict=True):
        assert part in sentence
        assert "\n" not in sentence and len(sentence) < 400


def test_a_hub_out_of_reach_is_one_sentence(loopback_hub: Any, pipeline_dir: Path, tmp_path: Path) -> None:
    away = "is not in the cache and the hub cannot be reached; connect, or set local-dir:PATH"
    lora = chosen(f"local-dir:{pipeline_dir}", lora="somebody/lora", lora_file="lora.safetensors")
    settings = chosen("somebody/tiny"), lora
    expected = [f"synthesis.model 'somebody/tiny' {away}", f"synthesis.lora 'somebody/lora' {away}"]
    assert draw(loopback_hub, tmp_path / "cache", *settings, HF_HUB_OFFLINE="1") == expected
    assert loopback_hub.requests == []
    loopback_hub.close()
    assert draw(loopback_hub, tmp_path / "cache", settings[0]) == expected[:1]


def test_a_download_that_breaks_off_is_one_sentence_and_tried_again_it_draws(
    loopback_hub: Any, pipeline_dir: Path, tmp_path: Path
) -> None:
    loopback_hub.models["somebody/tiny"] = pipeline_dir
    loopback_hub.cut = ("diffusion_pytorch_model.safetensors",)
    (sentence,) = draw(loopback_hub, tmp_path / "cache", chosen("somebody/tiny"))
    assert (
        sentence.startswith("synthesis.model 'somebody/tiny' was not downloaded to its end (") and "\n" not in sentence
    )
    loopback_hub.cut = ()
    assert isinstance(draw(loopback_hub, tmp_path / "cache", chosen("somebody/tiny"))[0], list)
