from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from t2ipal import preflight
from t2ipal.config import parse
from t2ipal.errors import UserError
from t2ipal.preflight import check_captions
from t2ipal.settings import CaptionSettings


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
    models = {"features": {"backbone": "RN50"}, "synthesis": {"model": "hub/model"}, "results": str(tmp_path / "r")}
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
