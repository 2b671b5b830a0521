"""What is configured, which labels are meant, and what a run will cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from t2ipal.commands.options import AsJson, Experiment, Overlays, Results, configuration

PANEL = "Before a run"
app = typer.Typer()
config_app = typer.Typer(help="The configuration.", no_args_is_help=True)
app.add_typer(config_app, name="config", rich_help_panel=PANEL)


@app.command(rich_help_panel=PANEL)
def labels(
    name: Annotated[str, typer.Argument(help="Name of a shipped label set, or path of one; none to list those.")] = "",
) -> None:
    """Print a label set: its classes, and every phrase for them, stated or derived."""
    from t2ipal.labels import LabelSet, listing, shipped

    typer.echo(listing.listing(LabelSet.load(name)) if name else "\n".join(shipped()))


@app.command(rich_help_panel=PANEL)
def plan(
    files: Overlays = None,
    experiment: Experiment = "summary",
    results: Results = None,
    as_json: AsJson = False,
) -> None:
    """Say what the images of a run will cost, and what is there already: images, jobs, disk, device-hours."""
    from t2ipal.budget import plan as planning
    from t2ipal.config import members
    from t2ipal.experiments import named

    config = configuration(files, results)
    wanted = named(config, experiment)
    for member in members(config):
        part = wanted.on(member.benchmark)
        found = planning.plan(member, part)
        if as_json:
            typer.echo(planning.as_json(found))
            continue
        typer.echo(planning.render(found, member))
        if downloads := planning.downloads(member, part):
            typer.echo(downloads)


@config_app.command("show")
def show(
    file: Annotated[Path | None, typer.Argument(help="YAML file to complete with the defaults; none for them.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="As a page with tables, as docs/config.md is.")] = False,
) -> None:
    """Print the configuration with all defaults, every key explained."""
    from t2ipal.config import Config, load
    from t2ipal.config_docs import render, render_page

    config = load(file) if file else Config()
    typer.echo(render_page(config) if markdown else render(config), nl=False)
