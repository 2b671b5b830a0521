"""The configuration explained: ``config.yaml`` and ``docs/config.md`` are written by this (``t2ipal config show``)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

from t2ipal.config import Config

HEADER = """\
# Every key of t2ipal with its default; what the key means stands behind it. A star (★) marks a value that the
# papers do not print. Put what you change into a file of its own: snakemake --configfile mine.yaml -- eval_all
"""


def _flow(value: Any) -> str:
    """A scalar or list as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _lines(section: BaseModel, indent: str = "") -> Iterator[str]:
    values = section.model_dump(mode="json")
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if isinstance(value, BaseModel):
            yield f"\n{indent}{key}:  # {field.description}"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{key}: {_flow(values[key])}  # {field.description}"


def render(config: Config) -> str:
    """YAML text that parses to ``config``, every key followed by its description as a comment."""
    return HEADER + "\n" + "\n".join(_lines(config)) + "\n"


PAGE = """\
# Every key

Written by `t2ipal config show --markdown` from the models that check a configuration; do not edit. A star (★) marks a
value that the papers do not print. How keys are set, and what a change makes run again, is in
[config/README.md](../config/README.md).
"""


def _cell(text: str) -> str:
    """Text that stays within a cell of a table."""
    return text.replace("|", "\\|")


def _rows(section: BaseModel, at: str = "") -> Iterator[str]:
    """The keys of a section and of those in it; of the whole, those that are in no section."""
    values = section.model_dump(mode="json")
    for key, field in type(section).model_fields.items():
        value, name = getattr(section, key), f"{at}{key}"
        if not isinstance(value, BaseModel):
            yield f"| `{name}` | `{_cell(_flow(values[key]))}` | {_cell(field.description or '')} |"
        elif at:
            yield from _rows(value, f"{name}.")


def render_page(config: Config) -> str:
    """The same as Markdown: a table for each section, with dotted keys."""
    head = "| key | default | meaning |\n|---|---|---|\n"
    parts = [PAGE, "## The run\n", head + "\n".join(_rows(config)) + "\n"]
    for key in type(config).model_fields:
        section = getattr(config, key)
        if isinstance(section, BaseModel):
            parts += [f"## `{key}`\n", head + "\n".join(_rows(section, f"{key}.")) + "\n"]
    return "\n".join(parts)
