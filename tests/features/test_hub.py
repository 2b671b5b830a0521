"""CLIPs of the hub: a server on the loopback, a new process for which it is the hub, and the way any name takes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.push_to_hf_hub import save_config_for_hf
from PIL import Image
from safetensors.torch import save_file

from t2ipal.features import dense, positions

pytestmark = pytest.mark.slow

TEXTS = ["a dog", "a photo of a cat on a mat"]
# Loads a CLIP as the stages do, for each of the settings given; prints what a user would be told, or saves features.
LOAD = """
import json, sys
import numpy as np
from PIL import Image
from t2ipal.errors import UserError
from t2ipal.features import backbone
from t2ipal.settings import FeatureSettings

for number, settings in enumerate(json.loads(sys.argv[1])):
    try:
        found = backbone.load(FeatureSettings(**settings).model_dump(mode="json"))
    except UserError as error:
        print(json.dumps(str(error)))
        continue
    pixels = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    global_, local, _ = found.encode_images([Image.fromarray(pixels)])
    text = found.encode_text(json.loads(sys.argv[3]))[0]
    np.savez(f"{sys.argv[2]}/{number}.npz", image=global_, local=local, text=text)
    print(json.dumps(found.preprocessing))
"""


def load(hub: Any, folder: Path, *settings: dict[str, Any], **environment: str) -> list[str]:
    """What became of each of the settings; features are in ``folder``, as is the cache."""
    folder.mkdir(exist_ok=True)
    arguments = (json.dumps(settings), str(folder), json.dumps(TEXTS))
    done = hub.run(LOAD, folder / "cache", *arguments, **environment)
    assert "Traceback" not in done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def saved(name: str, directory: Path) -> Any:
    """A model of open_clip's with random weights, of half precision in the files, and its directory on the hub."""
    torch.manual_seed(0)
    model = open_clip.create_model(name).half().float().eval().requires_grad_(False)
    directory.mkdir()
    weights = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    save_file(weights, directory / "open_clip_model.safetensors")
    save_config_for_hf(model, directory / "open_clip_config.json", open_clip.get_model_config(name))
    return model


@pytest.mark.parametrize(
    ("name", "published", "size"),
    [
        ("RN50-quickgelu", "timm/resnet50_clip.openai", 224),
        ("ViT-B-16-quickgelu", "timm/vit_base_patch16_clip_224.openai", 336),
    ],
)
def test_a_clip_of_the_hub_is_loaded_by_its_id_and_by_its_tag(
    loopback_hub: Any, tmp_path: Path, name: str, published: str, size: int
) -> None:
    """Once downloaded, it needs the hub no more."""
    model = saved(name, tmp_path / "model")
    loopback_hub.models[published] = tmp_path / "model"
    chosen: dict[str, Any] = {"input_size": size}
    settings = chosen | {"backbone": f"hf-hub:{published}"}, chosen | {"backbone": name, "pretrained": "openai"}
    assert load(loopback_hub, tmp_path / "first", *settings) == [f"crop{size}"] * 2
    downloaded = [path for method, path in loopback_hub.requests if method == "GET" and path.startswith("/large/")]
    assert len(downloaded) == 1
    expected = features(model, size)
    for number in range(2):
        with np.load(tmp_path / "first" / f"{number}.npz") as found:
            for key, value in expected.items():
                np.testing.assert_allclose(found[key], value, atol=1e-5)
    shutil.rmtree(tmp_path / "model")
    loopback_hub.models.clear()
    count = len(loopback_hub.requests)
    again = load(loopback_hub, tmp_path / "first", *settings, HF_HUB_OFFLINE="1")
    assert again == [f"crop{size}"] * 2
    assert len(loopback_hub.requests) == count
    shutil.rmtree(tmp_path / "first")


def features(model: Any, size: int) -> dict[str, np.ndarray]:
    """As open_clip computes them, but for the interpolation of positions and the local features."""
    transform = open_clip.image_transform(size, is_train=False, interpolation="bicubic", resize_mode="shortest")
    pixels = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    image = transform(Image.fromarray(pixels))[None]
    positions.resize(model.visual, size)
    local = dense.image_features(model.visual, image, attnpool_positional=False)[1]
    return {
        "image": model.encode_image(image, normalize=True).numpy(),
        "local": torch.nn.functional.normalize(local, dim=-1).numpy(),
        "text": model.encode_text(open_clip.tokenize(TEXTS), normalize=True).numpy(),
    }


CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "layers": 1, "width": 16, "head_width": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture
def publish(loopback_hub: Any, tmp_path: Path) -> Callable[..., Path]:
    """Puts a small CLIP on the hub, with changes of its configuration; gives its directory."""

    def done(identifier: str, **changes: Any) -> Path:
        directory = tmp_path / "hub" / identifier
        directory.mkdir(parents=True)
        torch.manual_seed(0)
        state = open_clip.CLIP(**CONFIG).state_dict()
        save_file({key: value.contiguous() for key, value in state.items()}, directory / "open_clip_model.safetensors")
        preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
        document = {"model_cfg": CONFIG | changes, "preprocess_cfg": preprocess}
        (directory / "open_clip_config.json").write_text(json.dumps(document))
        loopback_hub.models[identifier] = directory
        return directory

    return done


def test_what_the_hub_has_and_cannot_be_used_is_one_sentence_each(
    loopback_hub: Any, publish: Callable[..., Path], tmp_path: Path
) -> None:
    publish("some/good")
    publish("some/closed")
    loopback_hub.gated.add("some/closed")
    (publish("some/indexless") / "open_clip_config.json").unlink()
    (publish("some/garbage") / "open_clip_config.json").write_text("<html>")
    (publish("some/transformers") / "open_clip_config.json").write_text('{"model_type": "clip"}')
    (publish("some/weightless") / "open_clip_model.safetensors").unlink()
    publish("some/siglip", text_cfg=CONFIG["text_cfg"] | {"no_causal_mask": True, "pool_type": "last"})
    publish("some/wide", embed_dim=24)
    pickled = publish("some/pickled")
    (pickled / "open_clip_model.safetensors").unlink()
    torch.save({"code": SimpleNamespace()}, pickled / "open_clip_pytorch_model.bin")
    expected = {
        "some/good": "crop32",
        "some/nowhere": "features.backbone 'hf-hub:some/nowhere' is not on the hub, or is private; mend the id",
        "some/closed": "features.backbone 'hf-hub:some/closed' is gated: accept its terms on the hub and set HF_TOKEN",
        "some/indexless": "'hf-hub:some/indexless' has no open_clip_config.json on the hub: it is not in open_clip's",
        "some/garbage": "'hf-hub:some/garbage' is no open_clip model: its open_clip_config.json does not describe one",
        "some/transformers": "'hf-hub:some/transformers' is no open_clip model",
        "some/weightless": "'hf-hub:some/weightless' has no open_clip_model.safetensors on the hub",
        "some/siglip": "'hf-hub:some/siglip' cannot be used, because its text tower has no causal mask",
        "some/wide": "are of another architecture; name the model that they were saved from",
        "some/pickled": "hold more than tensors, or are damaged, and are not unpickled; save them as safetensors",
    }
    told = load(loopback_hub, tmp_path / "first", *({"backbone": f"hf-hub:{name}"} for name in expected))
    for part, sentence in zip(expected.values(), told, strict=True):
        assert part in sentence
        assert "\n" not in sentence and len(sentence) < 400
    assert loopback_hub.fetched("some/siglip") == {"open_clip_config.json"}
    sizes = load(loopback_hub, tmp_path / "first", {"backbone": "hf-hub:some/good", "input_size": 36})
    assert sizes == ["features.input_size: 36 is no multiple of 8, the side of the image tower's positions in pixels; "
                     "set 32 or 40"]  # fmt: skip


def test_a_hub_out_of_reach_is_one_sentence(loopback_hub: Any, tmp_path: Path) -> None:
    settings = [{"backbone": "hf-hub:some/good"}, {"backbone": "RN50-quickgelu", "pretrained": "openai"}]
    expected = [
        f"{about} is not in the cache and the hub cannot be reached; connect, or set local-dir:PATH"
        for about in (
            "features.backbone 'hf-hub:some/good'",
            "checkpoint 'openai' of features.backbone 'RN50-quickgelu' (timm/resnet50_clip.openai)",
        )
    ]
    assert load(loopback_hub, tmp_path / "first", *settings, HF_HUB_OFFLINE="1") == expected
    assert loopback_hub.requests == []
    loopback_hub.close()
    assert load(loopback_hub, tmp_path / "first", settings[1]) == expected[1:]


def test_a_hub_that_fails_or_breaks_off_is_one_sentence_and_tried_again_it_serves(
    loopback_hub: Any, publish: Callable[..., Path], tmp_path: Path
) -> None:
    publish("some/good")
    settings = {"backbone": "hf-hub:some/good"}
    loopback_hub.cut = ("open_clip_model.safetensors",)
    (sentence,) = load(loopback_hub, tmp_path / "first", settings)
    assert sentence.startswith("features.backbone 'hf-hub:some/good' was not downloaded to its end (")
    loopback_hub.cut, loopback_hub.failing = (), ("open_clip_model.safetensors",)
    (sentence,) = load(loopback_hub, tmp_path / "first", settings)
    assert "features.backbone 'hf-hub:some/good'" in sentence and "\n" not in sentence
    loopback_hub.failing = ()
    assert load(loopback_hub, tmp_path / "first", settings) == ["crop32"]
