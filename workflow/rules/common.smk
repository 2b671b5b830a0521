"""Paths and parameters for the rules. All knowledge of them is in t2ipal.layout; here it is only asked."""

import os
import sys
from pathlib import Path

from t2ipal import preflight
from t2ipal.budget.plan import check_disk, plan
from t2ipal.config import parse as parse_config
from t2ipal.errors import UserError
from t2ipal.io import canonical_json
from t2ipal import devices
from t2ipal.batches import Batch, ShardBatch, batches, shard_batches
from t2ipal.experiments import experiments
from t2ipal.layout import Layout, Unit, closure

# Two jobs of one thread each are faster than one job of two threads; Snakemake sets OMP_NUM_THREADS from this.
THREADS = 1
PRODUCTS = {
    "captions": ["captions.parquet"],
    "training": ["model.safetensors", "model.json"],
    "evaluation": ["scores.parquet", "metrics.json"],
    "gap": ["gap.json"],
}

# `.venv/bin/snakemake` finds its own `t2ipal` without activation of the environment.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]))


def or_exit(function, *arguments):
    """Call `function`; what a user can mend ends Snakemake with one sentence instead of a traceback."""
    try:
        return function(*arguments)
    except UserError as error:
        sys.exit(f"t2ipal: error: {error}")


# Snakemake itself takes `--cores 0` and waits for ever.
if workflow.resource_settings.cores is not None and workflow.resource_settings.cores < 1:
    sys.exit(f"t2ipal: error: --cores must be at least 1 (given: {workflow.resource_settings.cores})")

CONFIG = or_exit(parse_config, config)
RESULTS = CONFIG.results
LAYOUT = Layout(CONFIG)


def _experiments():
    """All tables and studies; none while a model is missing, so that `snakemake pack` can make it."""
    try:
        return experiments(CONFIG)
    except UserError:
        return {}


EXPERIMENTS = _experiments()
# Jobs of several trainings or evaluations; one that is asked for makes all of its units.
BATCHES = batches(EXPERIMENTS, CONFIG.training.models_per_job)
# Where the workflow computes itself, as many jobs with a GPU run at once as there are GPUs.
GPUS = len(devices.visible())
if "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", GPUS)


def _drawn():
    """The images that tables, studies and `synthesis_all`, `verification_all` ask for."""
    found = {name: [unit for unit in table.units if unit.stage == "synthesis"] for name, table in EXPERIMENTS.items()}
    if found:
        found["verification"] = [LAYOUT.synthesis(seed) for seed in CONFIG.seeds]
    return found


SHARD_BATCHES = shard_batches(_drawn(), CONFIG.synthesis.shards_per_job)


def _checked_units():
    preflight.check(CONFIG)
    ends = [entry.unit for found in (EXPERIMENTS or experiments(CONFIG)).values() for entry in found.entries]
    gaps = LAYOUT.gaps()
    verifications = [LAYOUT.verification(seed) for seed in CONFIG.seeds]
    gate = [LAYOUT.features("val", CONFIG.seeds[0]), LAYOUT.training("tai-dpt", CONFIG.seeds[0])]
    found = {}
    for unit in closure([*ends, *gaps, *verifications, *gate]):
        # Of an open unit the first one that has a piece is the one to make it.
        for piece in ("", *unit.pieces):
            found.setdefault((unit.stage, unit.run, piece), unit)
    return found


def units() -> dict[tuple[str, str, str], Unit]:
    """All units of the configuration, by stage, directory and piece. Asked for by the first job, so that `snakemake pack` needs no models yet."""
    if "found" not in units.__dict__:
        units.found = or_exit(_checked_units)
    return units.found


def unit(stage: str, wildcards) -> Unit:
    """The unit behind a requested path."""
    found = units().get((stage, wildcards.run, getattr(wildcards, "part", "")))
    if found is None:
        sys.exit(
            f"t2ipal: error: {RESULTS}/{stage}/{wildcards.run} belongs to no unit of this configuration; "
            f"request a target such as {stage}_all, or restore the configuration that it was made with"
        )
    return found


def upstream(unit: Unit, stage: str) -> Unit:
    """The unit of `stage` that `unit` is made from."""
    return next(above for above in unit.upstream if above.stage == stage)


def settings(stage: str):
    """A `params` function: the unit's settings as canonical JSON."""
    return lambda wildcards: canonical_json(unit(stage, wildcards).settings)


def files(unit: Unit) -> list[str]:
    """The files of a finished unit."""
    folder = LAYOUT.directory(unit)
    if unit.stage == "synthesis":
        return [str(path) for piece in unit.pieces for path in LAYOUT.shard(unit, piece)]
    if unit.stage in ("features", "verification"):
        return [f"{folder}/part-{piece}.parquet" for piece in unit.pieces]
    return [f"{folder}/{name}" for name in PRODUCTS[unit.stage]]


def shard_files(stage: str, wildcards) -> list[str]:
    """Tar and manifest behind one part of synthetic features or verification: parts and shards share numbers."""
    return [str(path) for path in LAYOUT.shard(upstream(unit(stage, wildcards), "synthesis"), wildcards.part)]


def all_outputs(experiment: str = "summary") -> list[str]:
    """The files of all units of a table: Snakemake misses a deleted file only where it is asked for by name."""
    return [path for found in experiment_units(experiment) for path in files(found)]


def experiment_units(experiment: str) -> list[Unit]:
    """The units that a table or study needs, after the checks of `units`."""
    return units() and EXPERIMENTS[experiment].units


def outputs(stage: str, experiment: str = "summary") -> list[str]:
    """The files of a table's units of one stage."""
    return [path for found in experiment_units(experiment) if found.stage == stage for path in files(found)]


def verification_outputs() -> list[str]:
    """The scores of the synthetic images of all seeds, whether or not a method asks for them."""
    return units() and [path for seed in CONFIG.seeds for path in files(LAYOUT.verification(seed))]


def gap_outputs() -> list[str]:
    """The measurements of the modality gap."""
    return units() and [path for found in LAYOUT.gaps() for path in files(found)]


def gap_options(gap: Unit) -> list[str]:
    """The features and models of a gap as options of `t2ipal gap`."""
    names = {"captions": "--captions", "synthetic": "--synthetic", "test": "--real"}
    words = []
    for above in gap.upstream:
        if above.stage == "features":
            words += [word for path in files(above) for word in (names[above.settings["source"]], path)]
        else:
            words += ["--model", str(LAYOUT.directory(above))]
    return words


def batches_of(stage: str) -> list[tuple[int, Batch]]:
    """The batches of one stage with the numbers that name their rules."""
    return [(number, batch) for number, batch in enumerate(BATCHES) if batch.stage == stage]


def batch_inputs(batch: Batch) -> list[str]:
    """The files that a batch is made from."""
    return units() and [path for above in batch.upstream for path in files(above)]


def batch_outputs(batch: Batch) -> list[str]:
    """The files of a batch's units."""
    return [path for made in batch.units for path in files(made)]


def training_jobs(batch: Batch) -> str:
    """The models of a batch as `t2ipal training` takes them."""
    return canonical_json(
        [
            {
                "settings": made.settings,
                "output": files(made)[-1],
                "features": {
                    above.settings["source"]: [str(LAYOUT.directory(above)), above.pieces]
                    for above in made.upstream
                    if above.stage == "features"
                },
                "members": [str(LAYOUT.directory(above)) for above in made.upstream if above.stage == "training"],
                # Where labels are not hard.
                **{
                    above.stage: [str(LAYOUT.directory(above)), above.pieces]
                    for above in made.upstream
                    if above.stage == "verification"
                },
            }
            for made in batch.units
        ]
    )


def shard_outputs(batch: ShardBatch) -> list[str]:
    """The files of a batch of shards; each tar before its manifest."""
    return [str(path) for made, piece in batch.shards for path in LAYOUT.shard(made, piece)]


def shard_jobs(batch: ShardBatch) -> str:
    """The shards of a batch as `t2ipal synthesis` takes them."""
    return canonical_json(
        [
            {
                "settings": made.settings,
                "captions": files(upstream(made, "captions"))[0],
                "shard": piece,
                "output": str(LAYOUT.shard(made, piece)[0]),
            }
            for made, piece in batch.shards
        ]
    )


def evaluation_jobs(batch: Batch) -> str:
    """The evaluations of a batch as `t2ipal evaluation` takes them."""
    return canonical_json(
        [
            {
                "settings": made.settings,
                "fingerprint": made.fingerprint,
                "model": str(LAYOUT.directory(upstream(made, "training"))),
                "output": files(made)[-1],
            }
            for made in batch.units
        ]
    )


def gpus(device: str) -> int:
    """GPUs that a job on `device` occupies; `auto` counts as one where there are any."""
    return int(device.startswith("cuda") or (device == "auto" and GPUS > 0))


def llm_in_job() -> bool:
    """Whether a language model runs in the captions' own job, not at a server."""
    return "llm" in CONFIG.captions.used and CONFIG.captions.llm.url is None


def caption_memory() -> int:
    """MB for the captions: more where a language model or the pools of a corpus are held."""
    return 8000 if llm_in_job() else 2000 if "corpus" in CONFIG.captions.used else 1000


def claim_results():
    """Refuse to run twice at once on the same results, or for a disk that is too small for the images.

    The kernel frees the claim even after SIGKILL.
    """
    or_exit(preflight.claim, Path(RESULTS))
    for name in EXPERIMENTS.keys() & asked_for():
        or_exit(check_disk, plan(CONFIG, EXPERIMENTS[name]), RESULTS)


def asked_for() -> set[str]:
    """The tables and studies that the targets of this run are or belong to."""
    wanted = {rule.name for rule in workflow.dag.targetrules}
    if "studies" in wanted:
        wanted |= {name for name in EXPERIMENTS if name.startswith("study_")}
    if wanted & {"eval_all", "synthesis_all", "verification_all", "features_all", "training_all"}:
        wanted.add("summary")
    return wanted


def print_tables():
    """Show the tables that this run was asked for."""
    wanted = asked_for()
    tables = {name: Path(RESULTS, "experiments", f"{name}.txt") for name in EXPERIMENTS if name != "summary"}
    tables["eval_all"] = Path(RESULTS, "summary.txt")
    for name, table in tables.items():
        if name in wanted and table.is_file():
            print(table.read_text(encoding="utf-8"), flush=True)
