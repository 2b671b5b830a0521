"""Training and gates of the embedded models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from t2ipal.commands.options import Output, Settings, mapping

app = typer.Typer(help="Training and gates of the embedded models (snakemake pack).", no_args_is_help=True)


@app.command("train")
def pack_train(
    step: Annotated[str, typer.Argument(help="tokenizer, clip, autoencoder, latents, generator, judge or export.")],
    settings: Settings,
    output: Output,
    minutes: Annotated[int, typer.Option("--minutes", min=1, help="Length of a sitting.")] = 150,
) -> None:
    """Do one step of the training of the embedded models; a training goes on where its last sitting stopped."""
    from t2ipal.pack.stage import run
    from t2ipal.settings import PackSettings

    values = {**mapping(settings, "--settings"), "sitting_minutes": minutes}
    run(step, PackSettings.model_validate(values), output)


@app.command("gates")
def pack_gates(
    settings: Settings,
    model: Annotated[Path, typer.Option("--model", help="Directory of a text-only (tai-dpt) model.")],
    val: Annotated[list[Path], typer.Option("--val", help="Features of validation scenes.")],
    directory: Annotated[Path, typer.Option("--directory", help="Directory of the pack's training.")],
    output: Output,
) -> None:
    """Measure what the embedded models must show: a probe's lead over text-only tuning, and drawn classes."""
    from t2ipal.pack.gates import measure
    from t2ipal.settings import SynthesisSettings

    values = SynthesisSettings.model_validate(mapping(settings, "--settings"))
    measure(values, model, val, directory, output)
