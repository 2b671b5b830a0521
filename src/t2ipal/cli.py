"""The command line: one thin sub-command per stage. Heavy imports happen inside the command that needs them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from t2ipal.errors import UserError

app = typer.Typer(
    name="t2ipal",
    help="Texts and synthesised images as training data of multi-label recognition. Each stage writes plain files.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
config_app = typer.Typer(help="The configuration.", no_args_is_help=True)
app.add_typer(config_app, name="config")
pack_app = typer.Typer(help="Training and gates of the embedded models (snakemake pack).", no_args_is_help=True)
app.add_typer(pack_app, name="pack")
captions_app = typer.Typer()
app.add_typer(captions_app, name="captions")

Settings = Annotated[str, typer.Option("--settings", help="The stage's settings as JSON, as the workflow passes them.")]
ConfigJson = Annotated[str, typer.Option("--config-json", help="The whole configuration as JSON.")]
Output = Annotated[Path, typer.Option("--output", help="File to write; it appears when it is complete.")]
Jobs = Annotated[str, typer.Option("--jobs", help="List of the models as JSON, as the workflow passes it.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Parts = Annotated[list[Path], typer.Argument(help="Parquet parts of features.")]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, of any command.")] = False,
) -> None:
    """Taken out of the arguments by :func:`main`, which needs it; declared here for the help page."""


def _parsed(text: str, option: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{option} is not valid JSON: {error}") from None


def _mapping(text: str, option: str) -> dict[str, Any]:
    value = _parsed(text, option)
    if not isinstance(value, dict):
        raise UserError(f"{option} must be a JSON object")
    return value


def _list(text: str, option: str) -> list[dict[str, Any]]:
    values = _parsed(text, option)
    if not isinstance(values, list):
        raise UserError(f"{option} must be a JSON list")
    return values


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
    values, asking = _mapping(settings, "--settings"), _mapping(operation, "--operation")
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


@app.command()
def labels(
    name: Annotated[str, typer.Argument(help="Name of a shipped label set, or path of one; none to list those.")] = "",
) -> None:
    """Print a label set: its classes, and every phrase for them, stated or derived."""
    from t2ipal.labels import LabelSet, listing, shipped

    typer.echo(listing.listing(LabelSet.load(name)) if name else "\n".join(shipped()))


@app.command()
def synthesis(jobs: Jobs, device: Device = "auto") -> None:
    """Stage 2: draw shards of synthetic images (a tar, and a JSON manifest beside it, for each)."""
    described = _list(jobs, "--jobs")
    from t2ipal.devices import lease

    with lease(device, "synthesis.device") as leased:
        from t2ipal.synthesis.stage import Job, draw

        draw([Job.of(found) for found in described], leased)


@app.command()
def verification(
    settings: Settings,
    shard_file: Annotated[Path, typer.Option("--shard-file", help="Score the images of this shard.")],
    output: Output,
    device: Device = "auto",
) -> None:
    """Score the images of a shard for every class, as `training.labels` filtered and soft need it."""
    values = _mapping(settings, "--settings")
    from t2ipal.devices import lease

    with lease(device, "verification.device") as leased:
        from t2ipal.verification.stage import verify_shard

        verify_shard(values, shard_file, output, leased)


@app.command()
def features(
    settings: Settings,
    output: Output,
    part: Annotated[int | None, typer.Option("--part", min=0, help="Number of the Parquet part.")] = None,
    captions: Annotated[Path | None, typer.Option("--captions", help="Encode these captions.")] = None,
    shard_file: Annotated[Path | None, typer.Option("--shard-file", help="Encode the images of this shard.")] = None,
    device: Device = "auto",
) -> None:
    """Stage 3: frozen CLIP features of captions, of a shard, or (with neither) of the benchmark's own images."""
    if captions and shard_file:
        raise UserError("--captions and --shard-file exclude each other: give one of them, or none for real images")
    if part is None and not shard_file:
        raise UserError("--part is missing: say which part of the captions or images to encode")
    values = _mapping(settings, "--settings")
    from t2ipal.devices import lease

    with lease(device, "features.device") as leased:
        from t2ipal.features import stage

        if shard_file:
            stage.extract_shard(values, shard_file, output, leased)
        elif captions:
            stage.extract_captions(values, captions, part or 0, output, leased)
        else:
            stage.extract_images(values, part or 0, output, leased)


@app.command()
def training(
    jobs: Jobs,
    device: Device = "auto",
) -> None:
    """Stage 4: train models that share features (model.json, and model.safetensors beside it, for each)."""
    described = _list(jobs, "--jobs")
    from t2ipal.devices import lease

    with lease(device, "features.device") as leased:
        from t2ipal.learning.stage import train
        from t2ipal.learning.workroom import Job

        train([Job.of(found) for found in described], leased)


@app.command()
def evaluation(
    jobs: Jobs,
    parts: Parts,
) -> None:
    """Stage 5: score the same test features with several models (metrics.json and scores.parquet for each)."""
    from t2ipal.evaluation.stage import Job, evaluate_all

    evaluate_all([Job.of(found) for found in _list(jobs, "--jobs")], parts)


@app.command()
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

    gap_stage(_mapping(settings, "--settings"), captions or [], synthetic or [], real or [], states(model), output)


@app.command()
def summary(
    config_json: ConfigJson,
    output: Output,
    experiment: Annotated[str, typer.Option("--experiment", help="Table or study (t2ipal.experiments).")] = "summary",
) -> None:
    """Stage 6: join all metrics to one table (.json, .csv and .txt); of a study, draw the curve too (.svg)."""
    from t2ipal.config import parse
    from t2ipal.reporting.summary import write_summary

    write_summary(parse(_mapping(config_json, "--config-json")), output, experiment)


@app.command()
def report(config_json: ConfigJson, output: Output) -> None:
    """Draw the report: table, synthetic images, heatmaps in one HTML file."""
    from t2ipal.config import parse
    from t2ipal.reporting.page import write_report

    write_report(parse(_mapping(config_json, "--config-json")), output)


@app.command()
def plan(
    file: Annotated[
        Path | None, typer.Argument(help="Overlay, as --configfile takes it; none for the defaults.")
    ] = None,
    experiment: Annotated[str, typer.Option("--experiment", help="Table or study; `summary` is eval_all.")] = "summary",
    results: Annotated[str | None, typer.Option("--results", help="Look here instead of the key `results`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say what the images of a run will cost, and what is there already: images, jobs, disk, device-hours."""
    from t2ipal.budget import plan as planning
    from t2ipal.config import Config, changed, load
    from t2ipal.experiments import named

    config = load(file) if file else Config()
    if results is not None:
        config = changed(config, {"results": results})
    found = planning.plan(config, named(config, experiment))
    typer.echo(planning.as_json(found) if as_json else planning.render(found, config))


@pack_app.command("train")
def pack_train(
    step: Annotated[str, typer.Argument(help="tokenizer, clip, autoencoder, latents, generator, judge or export.")],
    settings: Settings,
    output: Output,
    minutes: Annotated[int, typer.Option("--minutes", min=1, help="Length of a sitting.")] = 150,
) -> None:
    """Do one step of the training of the embedded models; a training goes on where its last sitting stopped."""
    from t2ipal.pack.stage import run
    from t2ipal.settings import PackSettings

    values = {**_mapping(settings, "--settings"), "sitting_minutes": minutes}
    run(step, PackSettings.model_validate(values), output)


@pack_app.command("gates")
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

    values = SynthesisSettings.model_validate(_mapping(settings, "--settings"))
    measure(values, model, val, directory, output)


@config_app.command("show")
def show(
    file: Annotated[Path | None, typer.Argument(help="YAML file to complete with the defaults; none for them.")] = None,
) -> None:
    """Print the configuration with all defaults, every key explained."""
    from t2ipal.config import Config, load
    from t2ipal.config_docs import render

    typer.echo(render(load(file) if file else Config()), nl=False)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: an error that the user can mend is one sentence on stderr and exit code 1."""
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
