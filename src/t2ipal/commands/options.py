"""Options that several commands share, and what they say: JSON as the workflow passes it, a configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t2ipal.errors import UserError

if TYPE_CHECKING:
    from t2ipal.config import Config

Settings = Annotated[str, typer.Option("--settings", help="The stage's settings as JSON, as the workflow passes them.")]
ConfigJson = Annotated[str, typer.Option("--config-json", help="The whole configuration as JSON.")]
Output = Annotated[Path, typer.Option("--output", help="File to write; it appears when it is complete.")]
Jobs = Annotated[str, typer.Option("--jobs", help="List of the models as JSON, as the workflow passes it.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Missing = Annotated[
    float, typer.Option("--missing", min=0, max=1, help="Share of images that may be missing or unreadable.")
]
Parts = Annotated[list[Path], typer.Argument(help="Parquet parts of features.")]
Overlays = Annotated[
    list[Path] | None, typer.Argument(help="Overlays, as --configfile takes them; none for config.yaml here.")
]
Experiment = Annotated[str, typer.Option("--experiment", help="Table or study; `summary` is eval_all.")]
Results = Annotated[str | None, typer.Option("--results", help="Look here instead of the key `results`.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


def configuration(files: list[Path] | None, results: str | None = None) -> Config:
    """The configuration that ``Overlays`` and ``Results`` ask for.

    Raises:
        UserError: see ``t2ipal.config.load``.
    """
    from t2ipal.config import changed, layered

    config = layered(files or [])
    return config if results is None else changed(config, {"results": results})


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
