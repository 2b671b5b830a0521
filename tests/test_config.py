from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from t2ipal.config import Config, changed, load, members, parse
from t2ipal.config_docs import render, render_page
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


def _keys(model: BaseModel) -> int:
    """The keys of the configuration, sections and those within them among them."""
    inner = [getattr(model, name) for name in type(model).model_fields]
    return len(inner) + sum(_keys(found) for found in inner if isinstance(found, BaseModel))


def test_every_key_has_a_one_line_comment():
    lines = [line for line in render(Config()).splitlines() if re.match(r"\s*\w+:", line)]
    assert len(lines) == _keys(Config())
    assert all(re.search(r"  # \S.*\.?$", line) for line in lines), lines


def test_rendered_yaml_parses_back_to_the_same_configuration():
    config = parse(
        {
            "seeds": [5],
            "prompts": {"template": "it's: a {} # 'here'"},
            "synthesis": {"revision": "abc", "negative_prompt": "no: [blur]"},
            "training": {"learning_rate": 1e-7},
            "variants": {"own": {"method": "t2i-pal", "set": {"prompts.template": "{}: # it", "adapter.betas": [1]}}},
            "backbones": [{"backbone": "RN50", "pretrained": "openai"}],
            "studies": {"alpha": []},
        }
    )
    assert parse(yaml.safe_load(render(config))) == config


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
        ({"verification": {"template": "{} and {}"}}, "verification.template"),
        ({"verification": {"pretrained": "openai"}}, "set verification.backbone too"),
        ({"training": {"labels": "smooth"}}, "training.labels"),
        ({"training": {"presence": 1.5}}, "training.presence"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"seeds": [-1]}, "seeds"),
        ({"methods": ["t2ipal"]}, "methods"),
        ({"captions": None}, "captions"),
        ({"results": ""}, "results"),
        ({"adapter": {"betas": []}}, "adapter.betas"),
        ({"adapter": {"prototypes": 0, "keys_per_class": 0}}, "adapter"),
        ({"clip_adapter": {"ratios": [0.5, 1.5]}}, "clip_adapter.ratios.1"),
        ({"real": {"shots": 0}}, "real.shots"),
        ({"real": {"known": 0}}, "real.known"),
        ({"loss": {"name": "hinge"}}, "loss.name"),
        ({"studies": {"image": [1]}}, "studies.images"),
        ({"studies": {"alpha": ["much"]}}, "studies.alpha.0"),
        ({"backbones": [{"pretrained": "openai"}]}, "backbones.0.backbone"),
        ({"training": {"models_per_job": 0}}, "training.models_per_job"),
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


def test_changes_by_dotted_keys_are_those_of_the_sections_and_leave_the_original():
    config = parse({"prompts": {"length": 7}, "seeds": [3]})
    found = changed(
        config, {"prompts.init_std": 0.5, "seeds": [1, 2], "variants.own": {"method": "comc", "set": {"a": 1}}}
    )
    expected = {"method": "comc", "set": {"a": 1}}
    assert found == parse({"prompts": {"length": 7, "init_std": 0.5}, "seeds": [1, 2], "variants": {"own": expected}})
    assert config == parse({"prompts": {"length": 7}, "seeds": [3]})
    assert changed(config, {}) is config


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("prompts.lenght", 2, "'prompts.lenght' is unknown; did you mean 'prompts.length'"),
        ("prompts.length", -1, "'prompts.length': .* greater"),
        ("prompts.length.x", 1, "'prompts.length.x' is unknown: 'length' is no section"),
        ("seeds.0.x", 1, "'seeds.0.x' is unknown: 'seeds' is no section"),
        ("synthesis.revision.x", 1, "'synthesis.revision.x' is unknown: 'revision' is no section"),
        ("nothing.here", 1, "'nothing' is unknown"),
        ("prompts", 3, "'prompts'"),
        ("", 3, "is unknown"),
    ],
)
def test_a_change_that_does_not_fit_is_one_sentence(key: str, value: object, named: str):
    with pytest.raises(UserError, match=named) as caught:
        changed(Config(), {key: value})
    assert "\n" not in str(caught.value)


def _together(tmp_path: Path, **overlays: dict) -> Config:
    for name, overlay in overlays.items():
        (tmp_path / name).write_text(yaml.safe_dump(overlay))
    return parse({"together": [str(tmp_path / name) for name in overlays], "training": {"epochs": 7, "batch_size": 9}})


def test_benchmarks_of_one_run_are_its_overlays_over_it_section_by_section(tmp_path: Path):
    config = _together(tmp_path, a={"training": {"epochs": 3}}, b={"benchmark": {"name": "voc2007"}})
    first, second = members(config)
    assert (first.training.epochs, first.training.batch_size, first.benchmark.name) == (3, 9, "openmoji")
    assert (second.training.epochs, second.training.batch_size, second.benchmark.name) == (7, 9, "voc2007")
    assert not first.together


def test_a_run_of_one_benchmark_is_its_own_member():
    assert members(Config()) == [Config()]


@pytest.mark.parametrize("key", ["results", "together"])
def test_an_overlay_of_several_cannot_lead_elsewhere(tmp_path: Path, key: str):
    config = _together(tmp_path, a={key: "x"})
    with pytest.raises(UserError, match=f"a cannot set '{key}'"):
        members(config)


def test_two_overlays_of_one_benchmark_are_refused(tmp_path: Path):
    config = _together(tmp_path, a={}, b={"training": {"epochs": 3}})
    with pytest.raises(UserError, match=r"b .*about benchmark 'openmoji', as another one is"):
        members(config)


def test_an_overlay_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"cannot read config file nowhere\.yaml"):
        members(parse({"together": ["nowhere.yaml"]}))


def test_the_page_of_all_keys_is_the_rendered_one_to_the_byte():
    # Written by: t2ipal config show --markdown > docs/config.md
    assert (ROOT / "docs" / "config.md").read_text() == render_page(Config())


def test_every_key_has_a_row_on_the_page():
    page = render_page(Config())
    for line in render(Config()).splitlines():
        key, _, rest = line.strip().partition(":")
        is_section = rest.lstrip().startswith("#")
        assert not line or line.startswith("#") or is_section or f"{key}`" in page
