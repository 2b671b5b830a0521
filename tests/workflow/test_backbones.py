"""The comparison of backbones on the real DAG: a second CLIP of the other tower family."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PACK = Path(__file__).resolve().parents[2] / "src" / "t2ipal" / "pack" / "models" / "clip"


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT of random weights in the layout of ``local-dir:``, with the pack's tokenizer."""
    import torch
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    config = json.loads((PACK / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"] = {"image_size": 32, "patch_size": 8, "layers": 2, "width": 32, "head_width": 8}
    sections = {name: config["model_cfg"][name] for name in ("vision_cfg", "text_cfg")}
    sections["text_cfg"] = {k: v for k, v in sections["text_cfg"].items() if k in CLIP_TEXT}
    torch.manual_seed(0)
    model = CLIP(config["model_cfg"]["embed_dim"], **sections)
    directory = tmp_path_factory.mktemp("vit")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(PACK / name, directory / name)
    (directory / "open_clip_config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, directory / "open_clip_model.safetensors")
    return directory


CLIP_TEXT = ("context_length", "vocab_size", "width", "heads", "layers")


def test_backbones_are_compared_on_the_same_images(project, vit: Path):
    methods = ["zero-shot-local", "t2i-pal"]
    overlay = {"methods": methods, "backbones": [{"backbone": f"local-dir:{vit}"}]}
    drawn = project.bytes_of("synthesis")
    planned = project.planned("backbones", overlay=overlay)
    assert "synthesis" not in planned
    assert planned["features_synthetic"] == 4 and planned["features_images"] == 1
    done = project.run("backbones", overlay=overlay)
    assert project.bytes_of("synthesis") == drawn
    rows = json.loads((project.results / "experiments" / "backbones.json").read_text())["rows"]
    found = {(row["method"], row["backbone"]): row for row in rows if row["metric"] == "mAP"}
    pack = "local-dir:src/t2ipal/pack/models/clip"
    assert set(found) == {(method, name) for method in methods for name in (pack, f"local-dir:{vit}")}
    # Numbers of towers that see other pixels never share a protocol.
    assert len({row["protocol"] for row in found.values()}) == 2
    assert found["t2i-pal", pack]["mean"] != found["t2i-pal", f"local-dir:{vit}"]["mean"]
    assert str(vit) in done.stdout
    assert "<svg" in (project.results / "experiments" / "backbones.svg").read_text()
