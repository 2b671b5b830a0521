"""The beginning of a project, and how its run stands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PANEL = "Your project"
app = typer.Typer()


@app.command(rich_help_panel=PANEL)
def init(
    directory: Annotated[Path, typer.Argument(help="Directory of the project; it must be empty or not there yet.")],
    labels: Annotated[str, typer.Option("--labels", help="Your labels, with commas between; quote what has one.")],
) -> None:
    """Write a project for labels of your own: labels, configuration, Snakefile, a folder for pictures."""
    from t2ipal.project import create, parsed_labels

    create(directory, parsed_labels(labels))
    typer.echo(
        f"{directory} is ready: put pictures into {directory / 'photos'}, then: cd {directory}; snakemake --cores 4"
    )


@app.command(rich_help_panel=PANEL)
def status(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Overlays, as --configfile takes them; none for config.yaml here.")
    ] = None,
    experiment: Annotated[str, typer.Option("--experiment", help="Table or study; `summary` is eval_all.")] = "summary",
    results: Annotated[str | None, typer.Option("--results", help="Look here instead of the key `results`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Tell what of a run is done, under way, out of date or left over, and why."""
    from t2ipal.config import changed, layered
    from t2ipal.standing import as_json as json_text
    from t2ipal.standing import render, standing

    config = layered(files or [])
    found = standing(config if results is None else changed(config, {"results": results}), experiment)
    typer.echo(json_text(found) if as_json else render(found))
