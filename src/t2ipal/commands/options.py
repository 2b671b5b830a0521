"""Options that several commands share, and JSON as the workflow passes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from t2ipal.errors import UserError

Settings = Annotated[str, typer.Option("--settings", help="The stage's settings as JSON, as the workflow passes them.")]
ConfigJson = Annotated[str, typer.Option("--config-json", help="The whole configuration as JSON.")]
Output = Annotated[Path, typer.Option("--output", help="File to write; it appears when it is complete.")]
Jobs = Annotated[str, typer.Option("--jobs", help="List of the models as JSON, as the workflow passes it.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Missing = Annotated[
    float, typer.Option("--missing", min=0, max=1, help="Share of images that may be missing or unreadable.")
]
Parts = Annotated[list[Path], typer.Argument(help="Parquet parts of features.")]


def _parsed(text: str, option: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{option} is not valid JSON: {error}") from None


def mapping(text: str, option: str) -> dict[str, Any]:
    """An option's JSON object.

    Raises:
        UserError: it is something else.
    """
    value = _parsed(text, option)
    if not isinstance(value, dict):
        raise UserError(f"{option} must be a JSON object")
    return value


def listed(text: str, option: str) -> list[dict[str, Any]]:
    """An option's JSON list.

    Raises:
        UserError: it is something else.
    """
    values = _parsed(text, option)
    if not isinstance(values, list):
        raise UserError(f"{option} must be a JSON list")
    return values
