from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from t2ipal.config import Config, load, parse
from t2ipal.config_docs import render
from t2ipal.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def _leaves(values: dict, prefix: str = "") -> dict:
    found = {}
    for key, value in values.items():
        found |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def test_shipped_yaml_is_the_rendered_defaults_to_the_byte():
    assert (ROOT / "config.yaml").read_text(encoding="utf-8") == render(Config()), (
        "config.yaml has drifted from the models: t2ipal config show > config.yaml"
    )


def test_shipped_yaml_holds_every_key_with_the_default_of_the_model():
    shipped = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    assert _leaves(shipped) == _leaves(Config().model_dump(mode="json"))


def test_every_key_has_a_one_line_comment():
    lines = [line for line in render(Config()).splitlines() if re.match(r"\s*\w+:", line)]
    sections = [value for value in Config().model_dump().values() if isinstance(value, dict)]
    assert len(lines) == len(_leaves(Config().model_dump())) + len(sections)
    assert all(re.search(r"  # \S.*\.?$", line) for line in lines), lines


def test_rendered_yaml_parses_back_to_the_same_configuration():
    changed = parse(
        {
            "seeds": [5],
            "prompts": {"template": "it's: a {} # 'here'"},
            "synthesis": {"revision": "abc", "negative_prompt": "no: [blur]"},
            "training": {"learning_rate": 1e-7},
        }
    )
    assert parse(yaml.safe_load(render(changed))) == changed


@pytest.mark.parametrize("overlay", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_overlay_is_accepted(overlay: Path):
    assert load(overlay) != Config()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"synthesiss": {}}, "synthesis"),
        ({"synthesis": {"step": 3}}, "synthesis.steps"),
        ({"synthesis": {"steps": 0}}, "synthesis.steps"),
        ({"synthesis": {"steps": "many"}}, "synthesis.steps"),
        ({"synthesis": {"shard_size": 601}}, "synthesis.shard_size"),
        ({"training": {"held_out": 1.0}}, "training.held_out"),
        ({"training": {"momentum": -0.1}}, "training.momentum"),
        ({"prompts": {"template": "a photo"}}, "prompts.template"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"seeds": [-1]}, "seeds"),
        ({"methods": ["t2ipal"]}, "methods"),
        ({"captions": None}, "captions"),
        ({"results": ""}, "results"),
        ({"adapter": {"betas": []}}, "adapter.betas"),
    ],
)
def test_a_bad_value_gives_one_sentence_that_names_the_key(values: dict, named: str):
    with pytest.raises(UserError) as caught:
        parse(values)
    sentence = str(caught.value)
    assert named in sentence
    assert "\n" not in sentence


def test_files_that_are_no_configuration_give_a_sentence(tmp_path: Path):
    for name, text in {"list.yaml": "- 1", "broken.yaml": "a: [", "empty.yaml": ""}.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=name):
            load(tmp_path / name)
    with pytest.raises(UserError, match=r"missing\.yaml"):
        load(tmp_path / "missing.yaml")
