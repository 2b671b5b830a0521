"""Trained models at work: on images of one's own, and packed to be carried away."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from t2ipal.commands.options import Device
from t2ipal.errors import UserError

PANEL = "Your images"
app = typer.Typer()

Model = Annotated[Path, typer.Argument(help="Directory of a model: of results/training, or an exported one.")]
Backbone = Annotated[
    str | None, typer.Option("--backbone", help="Where its CLIP is, if not where it was: a directory or a hub id.")
]


@app.command(rich_help_panel=PANEL)
def predict(
    model: Model,
    images: Annotated[list[str], typer.Argument(help="Image files and folders; - to read names from standard input.")],
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object on each line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="A table for a spreadsheet.")] = False,
    output: Annotated[Path | None, typer.Option("--output", help="Write to this file when all is done.")] = None,
    heatmaps: Annotated[
        Path | None, typer.Option("--heatmaps", help="Draw where each class was found, into this directory.")
    ] = None,
    device: Device = "auto",
    backbone: Backbone = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images computed together.")] = 32,
    workers: Annotated[int | None, typer.Option("--workers", min=0, help="Processes that decode images.")] = None,
) -> None:
    """Recognise images: labels and probabilities of each, one line after the other."""
    if as_json and as_csv:
        raise UserError("--json and --csv exclude each other: give one of them")
    from t2ipal.devices import lease

    with lease(device, "--device") as leased:
        from t2ipal.recognition import prediction

        prediction.predict(
            model,
            images,
            kind="json" if as_json else "csv" if as_csv else "text",
            output=output,
            heatmaps=heatmaps,
            device=leased,
            backbone=backbone,
            batch_size=batch_size,
            workers=workers,
        )


@app.command(rich_help_panel=PANEL)
def export(
    model: Model,
    output: Annotated[Path, typer.Argument(help="Directory to write; it appears when it is complete.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Write model.onnx, too: image in, probabilities out.")] = False,
    with_backbone: Annotated[
        bool, typer.Option("--with-backbone", help="Put the image tower of the CLIP into it, so that it needs nothing.")
    ] = False,
    backbone: Backbone = None,
    name: Annotated[str | None, typer.Option("--name", help="Of the recogniser; that of OUTPUT if none.")] = None,
    licence: Annotated[
        str | None, typer.Option("--licence", help="What you put the recogniser under, as a hub calls it: cc-by-4.0.")
    ] = None,
) -> None:
    """Write a model with its model card into one directory, to be used elsewhere or shared."""
    from t2ipal.recognition import export as exporting

    exporting.export(
        model, output, onnx=onnx, with_backbone=with_backbone, backbone=backbone, name=name, licence=licence
    )
