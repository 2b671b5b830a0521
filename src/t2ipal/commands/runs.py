"""The beginning of a project, and how its run stands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from t2ipal.commands.options import AsJson, Experiment, Overlays, Results, configuration

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
    files: Overlays = None,
    experiment: Experiment = "summary",
    results: Results = None,
    as_json: AsJson = False,
) -> None:
    """Tell what of a run is done, under way, out of date or left over, and why."""
    from t2ipal.standing import as_json as json_text
    from t2ipal.standing import render, standing

    found = standing(configuration(files, results), experiment)
    typer.echo(json_text(found) if as_json else render(found))
