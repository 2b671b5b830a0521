"""The configuration as commented YAML: ``config.yaml`` is written by this, ``t2ipal config show`` prints it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

from t2ipal.config import Config

HEADER = """\
# Every key of t2ipal with its default; what the key means stands behind it. A star (★) marks a value that the
# papers do not print. Put what you change into a file of its own: snakemake --configfile mine.yaml eval_all
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
