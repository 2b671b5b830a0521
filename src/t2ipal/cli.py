"""The command line: its root, and how errors end."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from t2ipal.allocator import keep_freed
from t2ipal.commands import pack, planning, project, recognition, runs, stages
from t2ipal.errors import UserError

HELP = """
From a list of class names to a recogniser of several classes per image, without one labelled image.

t2ipal writes captions, draws an image for each with a text-to-image model, takes features of a frozen CLIP, tunes
prompts and an adapter on them, and measures the result. Snakemake runs the stages and keeps what is done:

    snakemake --cores 4 eval_all                the embedded benchmark
    snakemake --configfile FILE -- eval_all     another one, or other settings

The commands below are for what comes before and after a run:

    t2ipal init zoo --labels fox,badger         a project for your own labels
    t2ipal plan FILE                            what a run will cost
    t2ipal status FILE                          what is done, and what is not
    t2ipal predict MODEL PICTURES               what a model recognises
    t2ipal export MODEL DIRECTORY               a model to carry away

An error that you can mend is one sentence; --debug shows where it came from. Tab completes commands and options after
t2ipal --install-completion. More: README.md and docs/.
"""

app = typer.Typer(
    name="t2ipal",
    help=HELP,
    rich_markup_mode="markdown",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for part in (runs, recognition, planning, project, stages):
    app.add_typer(part.app)
app.add_typer(pack.app, name="pack", rich_help_panel=stages.PANEL)


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, of any command.")] = False,
) -> None:
    """Taken out of the arguments by :func:`main`, which needs it; declared here for the help page."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point: an error that the user can mend is one sentence on stderr and exit code 1."""
    if arguments is None:  # the process is the command's own
        keep_freed()
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        app(args=[argument for argument in given if argument != "--debug"], prog_name="t2ipal")
    except UserError as error:
        if debug:
            raise
        print(f"t2ipal: error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("t2ipal: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
