from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from t2ipal import preflight
from t2ipal.config import changed, load, members, parse
from t2ipal.errors import UserError
from t2ipal.preflight import check_captions
from t2ipal.settings import CaptionSettings

CONFIGS = Path(__file__).resolve().parents[1] / "config"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text("{}")
    save_file({"a": np.ones((4, 5), np.float16), "b": np.ones(3, np.float32)}, folder / "weights.safetensors")
    return folder


def _check(model: Path) -> None:
    preflight.check_model(f"local-dir:{model}", "open_clip_config.json", "features.backbone")


def test_a_verifier_that_is_damaged_is_named_by_its_key(model: Path, tmp_path: Path):
    _cut(model / "weights.safetensors")
    models = {
        "features": {"backbone": "hf-hub:some/clip"},
        "synthesis": {"model": "hub/model"},
        "results": str(tmp_path / "r"),
    }
    preflight.check(parse(models))
    with pytest.raises(UserError, match=r"weights\.safetensors.*verification\.backbone.*damaged"):
        preflight.check(parse({**models, "verification": {"backbone": f"local-dir:{model}"}}))


def test_a_whole_model_and_a_hub_id_pass(model: Path):
    _check(model)
    preflight.check_model("hf-hub:laion/some", "open_clip_config.json", "features.backbone")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _cut_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _garbage(path: Path) -> None:
    path.write_bytes(b"\x08" + b"\0" * 7 + b"not json" + b"\0" * 40)


def _html(path: Path) -> None:
    path.write_text("<html>404</html>")


def _lfs_pointer(path: Path) -> None:
    path.write_text("version 1\noid sha256:abc\nsize 123456\n" * 20)


@pytest.mark.parametrize("damage", [_cut, _cut_header, _empty, _garbage, _html, _lfs_pointer])
def test_damaged_weights_are_named(model: Path, damage):
    damage(model / "weights.safetensors")
    with pytest.raises(UserError, match=r"weights\.safetensors.*features\.backbone.*damaged"):
        _check(model)


def test_damaged_json_is_named(model: Path):
    (model / "open_clip_config.json").write_text('{"model_cfg": ')
    with pytest.raises(UserError, match=r"open_clip_config\.json.*damaged"):
        _check(model)


@pytest.mark.parametrize(
    ("gone", "named"), [("open_clip_config.json", r"open_clip_config\.json"), ("weights.safetensors", r"\.safetensors")]
)
def test_a_missing_file_is_named(model: Path, gone: str, named: str):
    (model / gone).unlink()
    with pytest.raises(UserError, match=named):
        _check(model)


REFUSED = {
    "unknown name": (
        {"features.backbone": "RN5O", "features.pretrained": "openai"},
        r"backbone: open_clip .* 'RN5O'; set RN50",
    ),
    "hub id without scheme": ({"features.backbone": "laion/clip"}, r"or for a model of the hub hf-hub:laion/clip$"),
    "no weights": ({"features.backbone": "ViT-B-32"}, r"features\.pretrained is missing: .*laion2b_s34b_b79k"),
    "unknown tag": (
        {"features.backbone": "RN101", "features.pretrained": "laion"},
        r"no checkpoint 'laion'; there are",
    ),
    "no file": ({"features.backbone": "RN50", "features.pretrained": "my/w.pt"}, r"there is no file 'my/w\.pt'"),
    "another activation": (
        {"features.backbone": "RN50", "features.pretrained": "openai"},
        r"'openai' was trained with QuickGELU, .*; set features\.backbone to 'RN50-quickgelu'$",
    ),
    "verified without its activation": (
        {"verification.backbone": "ViT-B/32-quickgelu", "verification.pretrained": "laion2b_s34b_b79k"},
        r"trained without QuickGELU.*; set verification\.backbone to 'ViT-B-32'$",
    ),
    "another kind of text tower": (
        {"features.backbone": "ViT-B-16-SigLIP", "features.pretrained": "webli"},
        r"'ViT-B-16-SigLIP' cannot be used, because its text tower has no causal mask",
    ),
    "a size between positions": (
        {"features.input_size": 100},
        r"features\.input_size: 100 is no multiple of 32.*96 or 128",
    ),
    "one of those compared": (
        {"backbones": [{"backbone": name, "pretrained": "openai"} for name in ("RN50-quickgelu", "RN50")]},
        r"backbones\[1\]\.pretrained: .*; set backbones\[1\]\.backbone to 'RN50-quickgelu'",
    ),
    "a size of one of those compared": (
        {"backbones": [{"backbone": "ViT-L-14-quickgelu", "pretrained": "openai"}], "features.input_size": 96},
        r"features\.input_size: 96 is no multiple of 14.*84 or 98",
    ),
    "a checkpoint beside a model of the hub": (
        {"features.backbone": "hf-hub:some/clip", "features.pretrained": "openai"},
        r"features\.pretrained is for a model's name.*leave it out",
    ),
    "a tokenizer": ({"captions.tokenizer": "RN-50"}, r"captions\.tokenizer: open_clip has no model 'RN-50'; set RN50"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_clip_that_cannot_be_used_is_told_before_the_first_job(case: str, tmp_path: Path):
    changes, sentence = REFUSED[case]
    with pytest.raises(UserError, match=sentence) as caught:
        preflight.check(changed(parse({"results": str(tmp_path / "r")}), changes))
    assert "\n" not in str(caught.value)


def test_clips_that_can_be_used_pass(tmp_path: Path):
    file = tmp_path / "weights.safetensors"
    file.touch()
    for backbone, pretrained, size in (
        ("RN50-quickgelu", "openai", 448),
        ("ViT-B/16-quickgelu", "openai", 336),
        ("ViT-B-32", "LAION2B-s34B-b79K", None),
        ("ViT-B-32", str(file), None),
        ("hf-hub:some/clip", None, 224),
    ):
        chosen = {"features.backbone": backbone, "features.pretrained": pretrained, "features.input_size": size}
        preflight.check_backbones(changed(parse({}), chosen))
    preflight.check_tokenizer("ViT-B/32")
    preflight.check_tokenizer("hf-hub:some/clip")


@pytest.mark.parametrize("overlay", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_every_shipped_configuration_names_clips_that_can_be_used(overlay: str):
    for member in members(load(CONFIGS / overlay)):
        preflight.check_backbones(member)
        preflight.check_tokenizer(member.captions.tokenizer)


def test_a_class_without_a_drawing_is_named(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("classes: {cat: {}, unicycle: {}}\n")
    config = parse({"benchmark": {"labels": str(tmp_path / "mine.yaml")}})
    with pytest.raises(UserError, match=r"benchmark\.labels.*'unicycle'"):
        preflight.check_labels(config)
    preflight.check_labels(parse({}))


def test_results_below_a_file_are_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="config key 'results'"):
        preflight.check_writable(tmp_path / "file" / "results")


def test_a_claim_keeps_others_out_and_ends_with_its_process(tmp_path: Path):
    code = "import sys, time; from pathlib import Path; from t2ipal import preflight\n"
    code += "preflight.claim(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another run"):
            preflight.claim(tmp_path)
        holder.kill()
    preflight.claim(tmp_path)


def test_a_tokenizer_and_a_language_model_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"captions\.tokenizer: .*tokenizer\.json is missing"):
        check_captions(CaptionSettings(tokenizer=f"local-dir:{tmp_path}"))
    llm = {"model": f"local-dir:{tmp_path}", "gguf": "none.gguf"}
    with pytest.raises(UserError, match=r"none\.gguf.*captions\.llm\.gguf.* is missing"):
        check_captions(CaptionSettings(sources={"llm": 1.0}, llm=llm))
    check_captions(CaptionSettings(llm=llm))
