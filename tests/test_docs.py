"""docs/method.md says of code, keys and defaults what is so, and no page points to a file that is not there."""

from __future__ import annotations

import importlib
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from t2ipal.config import Config, parse
from t2ipal.experiments import AXES, experiments
from t2ipal.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
METHOD_PAGE = ROOT / "docs" / "method.md"
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
# Sections of the configuration that are about the method: the page explains every key of them.
EXPLAINED = (
    "captions", "verification", "prompts", "scores", "adapter", "linear", "clip_adapter", "loss", "training", "real",
    "studies",
)  # fmt: skip
FILE_ENDINGS = {"json", "csv", "txt", "svg", "html", "yaml", "md", "py", "parquet", "tar", "safetensors"}
SOURCES = {"captions": "captions", "synthetic": "synthetic images", "train": "real training images"}

LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
CODE_LINK = re.compile(r"\[`([\w.]+)`\]\(\.\./src/([\w/]+)\.py\)")
CODE = re.compile(r"`([^`]+)`")


@cache
def _text(page: Path = METHOD_PAGE) -> str:
    return page.read_text(encoding="utf-8")


@cache
def _tables() -> dict[tuple[str, ...], list[list[str]]]:
    """The rows of all tables of the method page, by the cells of their heads."""
    tables: dict[tuple[str, ...], list[list[str]]] = {}
    rows: list[list[str]] | None = None
    for line in _text().splitlines():
        if not line.startswith("|"):
            rows = None
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if rows is None:
            rows = tables.setdefault(tuple(cells), [])
        elif set("".join(cells)) - set("-:"):
            rows.append(cells)
    return tables


def _rows(*head: str) -> list[list[str]]:
    return _tables()[head]


def _code(cell: str) -> list[str]:
    return CODE.findall(cell)


@cache
def _fields() -> dict[str, FieldInfo]:
    """Every key of the configuration, dotted, with its field."""
    found: dict[str, FieldInfo] = {}
    for name, field in Config.model_fields.items():
        if isinstance(field.default, BaseModel):
            section = type(field.default).model_fields
            # A section within a section has a page of its own.
            own = {key: inner for key, inner in section.items() if not isinstance(inner.default, BaseModel)}
            found |= {f"{name}.{key}": inner for key, inner in own.items()}
        else:
            found[name] = field
    return found


def _default(key: str) -> Any:
    value: Any = Config().model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value


def _stated_defaults() -> dict[str, tuple[str, str]]:
    """Default and source of each key, as the page has them."""
    found: dict[str, tuple[str, str]] = {}
    for key, default, source in _rows("key", "default", "from"):
        (name,), (value,) = _code(key), _code(default)
        assert name not in found, f"{name} is explained twice"
        found[name] = value, source
    return found


def test_every_method_has_a_row_in_order():
    rows = _rows("method", "what it is", "learns from", "chosen on", "adapter", "changes")
    assert [_code(row[0]) for row in rows] == [[method] for method in METHODS]


def test_the_row_of_a_method_says_what_the_method_is():
    for name, about, learns, chosen, adapter, changes in _rows(
        "method", "what it is", "learns from", "chosen on", "adapter", "changes"
    ):
        method = METHODS[_code(name)[0]]
        sources = [SOURCES[source] for source, role in method.data.items() if role != "learn"]
        assert about == method.about
        assert learns == method.trained_on
        assert chosen == (" and ".join(sources) or "–"), method.id
        assert adapter == ("yes" if method.adapter else "–"), method.id
        stated = dict(change.split(": ", 1) for change in _code(changes))
        assert {key: yaml.safe_load(value) for key, value in stated.items()} == dict(method.changes), method.id


def test_every_experiment_has_a_row():
    stated = [_code(row[0])[0] for row in _rows("target", "varies", "values", "methods", "beside")]
    targets = ["eval_all" if name == "summary" else name for name in experiments(Config())]
    assert sorted(stated) == sorted([*targets, "studies"])


def test_the_row_of_a_study_says_what_the_study_varies():
    rows = {_code(row[0])[0]: row[1:] for row in _rows("target", "varies", "values", "methods", "beside")}
    for name, axis in AXES.items():
        varies, values, methods, beside = rows[name]
        assert _code(varies) == [axis.key], name
        assert _code(values) == [f"studies.{axis.field}"], name
        assert _code(methods) == list(axis.methods), name
        assert _code(beside) == list(axis.references), name


def test_the_table_of_losses_holds_every_loss():
    (head,) = (head for head in _tables() if head[0] == "`loss.name`")
    assert [_code(row[0])[0] for row in _rows(*head)] == list(Config().studies.loss)


def test_every_stated_default_is_that_of_the_configuration():
    stated = _stated_defaults()
    assert set(stated) <= set(_fields())
    assert {key: yaml.safe_load(value) for key, (value, _) in stated.items()} == {key: _default(key) for key in stated}


def test_every_key_of_the_method_is_explained():
    starred = {key for key, field in _fields().items() if "★" in (field.description or "")}
    wanted = starred | {key for key in _fields() if key.split(".")[0] in EXPLAINED}
    assert wanted - set(_stated_defaults()) == set()


def test_a_star_stands_where_the_configuration_has_one():
    for key, (_, source) in _stated_defaults().items():
        assert ("★" in source) == ("★" in (_fields()[key].description or "")), key


def test_every_key_that_is_named_exists():
    prose = LINK.sub("", re.sub(r"```.*?```", "", _text(), flags=re.DOTALL))
    named = [token for token in _code(prose) if re.fullmatch(r"[a-z_]+\.[a-z_0-9]+", token)]
    keys = {token for token in named if token.rpartition(".")[2] not in FILE_ENDINGS}
    assert len(keys) > 50
    assert keys - set(_fields()) == set()


def test_every_function_that_is_named_is_in_the_linked_module():
    named = CODE_LINK.findall(_text())
    assert len(named) > 50
    for name, path in named:
        module = path.replace("/", ".")
        stem, *attributes = name.split(".")
        assert stem == module.rpartition(".")[2], f"{name} is linked to {module}"
        found: Any = importlib.import_module(module)
        for attribute in attributes:
            assert hasattr(found, attribute), f"{module} has no {'.'.join(attributes)}"
            found = getattr(found, attribute)


def test_every_link_to_a_source_file_names_what_is_in_it():
    links = [target for _, target in LINK.findall(_text()) if target.startswith("../src/") and target.endswith(".py")]
    assert len(links) == len(CODE_LINK.findall(_text()))


def test_every_overlay_on_the_page_is_a_valid_configuration():
    overlays = re.findall(r"```yaml\n(.*?)```", _text(), re.DOTALL)
    assert overlays
    for overlay in overlays:
        assert parse(yaml.safe_load(overlay)) != Config()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_points_to_what_is_there(page: Path):
    for _, target in LINK.findall(_text(page)):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        linked = page.parent / path if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in _anchors(linked), f"{page.name} links to {target}"


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", _text(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
