"""One thin sub-command per stage, as the workflow calls them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from t2ipal.commands.options import ConfigJson, Device, Jobs, Missing, Output, Parts, Settings, listed, mapping
from t2ipal.errors import UserError

PANEL = "Stages, as the workflow calls them"
app = typer.Typer()
captions_app = typer.Typer()
app.add_typer(captions_app, name="captions", rich_help_panel=PANEL)


@captions_app.callback(invoke_without_command=True)
def captions(
    context: typer.Context,
    settings: Annotated[str | None, typer.Option("--settings", help="The stage's settings as JSON.")] = None,
    output: Annotated[Path | None, typer.Option("--output", help="Parquet file to write.")] = None,
    operation: Annotated[str, typer.Option("--operation", help="How to ask the language model, as JSON.")] = "{}",
    device: Device = "cpu",
) -> None:
    """Stage 1: write captions with their labels to a Parquet file (--settings, --output); or explain labels."""
    if context.invoked_subcommand is not None:
        return
    if settings is None or output is None:
        raise typer.BadParameter("both are needed", param_hint="--settings and --output")
    values, asking = mapping(settings, "--settings"), mapping(operation, "--operation")
    from t2ipal.captions.stage import write_captions
    from t2ipal.devices import lease

    with lease(device, "captions.llm.device") as leased:
        write_captions(values, output, asking, leased)


@captions_app.command()
def explain(
    text: Annotated[str, typer.Argument(help="A caption.")],
    labels: Annotated[str, typer.Option("--labels", help="Name of a shipped label set, or path of one.")] = "voc2007",
    tagger: Annotated[str | None, typer.Option("--tagger", help="spaCy model that drops what is no noun.")] = None,
) -> None:
    """Show which words of a caption mention which class, and by which phrase of the label set."""
    from t2ipal.labels import LabelSet, grammar, listing

    found = LabelSet.load(labels)
    kept = found.mine(text) if tagger is None else next(grammar.mine(found, [text], grammar.load_tagger(tagger)))
    typer.echo(listing.explanation(found, text, [match for match in found.mine(text) if match not in kept]))


@app.command(rich_help_panel=PANEL)
def synthesis(
    jobs: Jobs,
    device: Device = "auto",
    scratch: Annotated[
        str | None, typer.Option("--scratch", help="Directory of this machine alone; variables as $TMPDIR count here.")
    ] = None,
) -> None:
    """Stage 2: draw shards of synthetic images (a tar, and a JSON manifest beside it, for each)."""
    described = listed(jobs, "--jobs")
    from t2ipal.devices import lease

    with lease(device, "synthesis.device") as leased:
        from t2ipal.synthesis.stage import Job, draw

        draw([Job.of(found) for found in described], leased, Path(os.path.expandvars(scratch)) if scratch else None)


@app.command(rich_help_panel=PANEL)
def verification(
    settings: Settings,
    shard_file: Annotated[Path, typer.Option("--shard-file", help="Score the images of this shard.")],
    output: Output,
    device: Device = "auto",
) -> None:
    """Score the images of a shard for every class, as `training.labels` filtered and soft need it."""
    values = mapping(settings, "--settings")
    from t2ipal.devices import lease

    with lease(device, "verification.device") as leased:
        from t2ipal.verification.stage import verify_shard

        verify_shard(values, shard_file, output, leased)


@app.command(rich_help_panel=PANEL)
def acquire(
    item: Annotated[str, typer.Argument(help="Name of an item of the catalogue (docs/acquisition.md).")],
    downloads: Annotated[Path, typer.Option("--downloads", help="Directory that receives it.")],
    output: Output,
    mirror: Annotated[
        list[str] | None, typer.Option("--mirror", help="Address to ask before the official one.")
    ] = None,
) -> None:
    """Download, check and unpack images or annotations; what a broken-off download has is kept and continued."""
    from t2ipal.acquisition.stage import acquire as fetch

    fetch(item, downloads, mirror or [], output)


@app.command(rich_help_panel=PANEL)
def index(
    settings: Settings,
    output: Output,
    missing: Missing = 0.0,
) -> None:
    """List the images of a benchmark's split with their labels, and check that they are there."""
    from t2ipal.benchmarks.index import build

    build(mapping(settings, "--settings"), output, missing)


@app.command(rich_help_panel=PANEL)
def features(
    settings: Settings,
    output: Annotated[list[Path], typer.Option("--output", help="Parquet part to write; one for each shard.")],
    part: Annotated[int | None, typer.Option("--part", min=0, help="Number of the Parquet part.")] = None,
    captions: Annotated[Path | None, typer.Option("--captions", help="Encode these captions.")] = None,
    shard_file: Annotated[
        list[Path] | None, typer.Option("--shard-file", help="Encode the images of this shard; may be repeated.")
    ] = None,
    index: Annotated[Path | None, typer.Option("--index", help="List of the benchmark's image files.")] = None,
    missing: Missing = 0.0,
    workers: Annotated[int | None, typer.Option("--workers", min=0, help="Processes that decode images.")] = None,
    device: Device = "auto",
) -> None:
    """Stage 3: frozen CLIP features of captions, of shards, or (with neither) of the benchmark's own images."""
    if captions and shard_file:
        raise UserError("--captions and --shard-file exclude each other: give one of them, or none for real images")
    if part is None and not shard_file:
        raise UserError("--part is missing: say which part of the captions or images to encode")
    if len(output) != max(1, len(shard_file or [])):
        raise UserError("give one --output, or as many as --shard-file")
    values = mapping(settings, "--settings")
    from t2ipal.devices import lease

    with lease(device, "features.device") as leased:
        from t2ipal.features import stage

        if shard_file:
            stage.extract_shards(values, dict(zip(shard_file, output, strict=True)), leased, workers=workers)
        elif captions:
            stage.extract_captions(values, captions, part or 0, output[0], leased)
        else:
            stage.extract_images(values, part or 0, output[0], leased, index=index, workers=workers, missing=missing)


@app.command(rich_help_panel=PANEL)
def training(
    jobs: Jobs,
    device: Device = "auto",
) -> None:
    """Stage 4: train models that share features (model.json, and model.safetensors beside it, for each)."""
    described = listed(jobs, "--jobs")
    from t2ipal.devices import lease

    with lease(device, "features.device") as leased:
        from t2ipal.learning.stage import train
        from t2ipal.learning.workroom import Job

        train([Job.of(found) for found in described], leased)


@app.command(rich_help_panel=PANEL)
def evaluation(
    jobs: Jobs,
    parts: Parts,
) -> None:
    """Stage 5: score the same test features with several models (metrics.json and scores.parquet for each)."""
    from t2ipal.evaluation.stage import Job, evaluate_all

    evaluate_all([Job.of(found) for found in listed(jobs, "--jobs")], parts)


@app.command(rich_help_panel=PANEL)
def gap(
    settings: Settings,
    model: Annotated[list[Path], typer.Option("--model", help="Directory of a trained model.")],
    output: Output,
    captions: Annotated[list[Path] | None, typer.Option("--captions", help="A part of caption features.")] = None,
    synthetic: Annotated[list[Path] | None, typer.Option("--synthetic", help="A part of synthetic features.")] = None,
    real: Annotated[list[Path] | None, typer.Option("--real", help="A part of real images' features.")] = None,
) -> None:
    """Measure the modality gap before and after tuning (gap.json). Repeat an option for several models or parts."""
    from t2ipal.evaluation.gap_stage import gap_stage, states

    gap_stage(mapping(settings, "--settings"), captions or [], synthetic or [], real or [], states(model), output)


@app.command(rich_help_panel=PANEL)
def summary(
    config_json: ConfigJson,
    output: Output,
    experiment: Annotated[str, typer.Option("--experiment", help="Table or study (t2ipal.experiments).")] = "summary",
) -> None:
    """Stage 6: join all metrics to one table (.json, .csv and .txt); of a study, draw the curve too (.svg)."""
    from t2ipal.config import parse
    from t2ipal.reporting.summary import write_summary

    write_summary(parse(mapping(config_json, "--config-json")), output, experiment)


@app.command(rich_help_panel=PANEL)
def report(config_json: ConfigJson, output: Output) -> None:
    """Draw the report: table, synthetic images, heatmaps in one HTML file."""
    from t2ipal.config import parse
    from t2ipal.reporting.page import write_report

    write_report(parse(mapping(config_json, "--config-json")), output)
