"""Whether this machine, or the cluster it belongs to, is fit for a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from t2ipal.commands.options import Overlays, configuration

PANEL = "Before a run"
app = typer.Typer()


@app.command(rich_help_panel=PANEL)
def doctor(
    files: Overlays = None,
    slurm: Annotated[bool, typer.Option("--slurm", help="Check the SLURM cluster and the profile for it.")] = False,
    profile: Annotated[
        Path, typer.Option("--profile", help="Directory of the profile that is checked with --slurm.")
    ] = Path("workflow/profiles/slurm"),
) -> None:
    """Check what a run needs, and say what is missing and how to mend it. Exit code 1 if a run would fail."""
    from t2ipal.diagnosis import findings, machine

    config = configuration(files)
    checks = machine.checks(config)
    if slurm:
        from t2ipal.diagnosis import slurm as cluster

        checks += cluster.checks(config, profile)
    found = findings.examine(checks)
    typer.echo(findings.render(found))
    if findings.failed(found):
        raise typer.Exit(1)
