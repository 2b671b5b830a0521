"""Paths and parameters for the rules. All knowledge of them is in t2ipal.layout; here it is only asked."""

import os
import shutil
import sys
from pathlib import Path

from t2ipal import preflight
from t2ipal.config import parse as parse_config
from t2ipal.errors import UserError
from t2ipal.io import canonical_json
from t2ipal.layout import Layout, Unit

# Two jobs of one thread each are faster than one job of two threads; Snakemake sets OMP_NUM_THREADS from this.
THREADS = 1
PRODUCTS = {
    "captions": ["captions.parquet"],
    "training": ["model.safetensors", "model.json"],
    "evaluation": ["scores.parquet", "metrics.json"],
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


def _checked_units():
    preflight.check(CONFIG)
    validation = LAYOUT.features("val", CONFIG.seeds[0])
    return {(unit.stage, unit.run): unit for unit in [*LAYOUT.units(), validation]}


def units() -> dict[tuple[str, str], Unit]:
    """All units of the configuration. Asked for by the first job, so that `snakemake pack` needs no models yet."""
    if "found" not in units.__dict__:
        units.found = or_exit(_checked_units)
    return units.found


def unit(stage: str, wildcards) -> Unit:
    """The unit behind a requested path."""
    if (stage, wildcards.run) not in units():
        sys.exit(
            f"t2ipal: error: {RESULTS}/{stage}/{wildcards.run} belongs to no unit of this configuration; "
            f"request a target such as {stage}_all, or restore the configuration that it was made with"
        )
    return units()[stage, wildcards.run]


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
        return [f"{folder}/shard-{shard:05d}.{end}" for shard in range(LAYOUT.shards()) for end in ("tar", "json")]
    if unit.stage == "features":
        return [f"{folder}/part-{part:05d}.parquet" for part in range(LAYOUT.parts(unit.settings["source"]))]
    return [f"{folder}/{name}" for name in PRODUCTS[unit.stage]]


def shard_files(wildcards) -> list[str]:
    """Tar and manifest behind one part of synthetic features: parts and shards share their numbers."""
    folder = LAYOUT.directory(upstream(unit("features", wildcards), "synthesis"))
    return [f"{folder}/shard-{wildcards.part}.{end}" for end in ("tar", "json")]


def table_units() -> list[Unit]:
    """The units that the table needs, after the checks of `units`."""
    return units() and LAYOUT.units()


def outputs(stage: str) -> list[str]:
    """The files of the table's units of one stage."""
    return [path for found in table_units() if found.stage == stage for path in files(found)]


def all_outputs() -> list[str]:
    """The files of all the table's units: Snakemake misses a deleted file only where it is asked for by name."""
    return [path for found in table_units() for path in files(found)]


def gpus(device: str) -> int:
    """GPUs that a job on `device` occupies; `auto` counts as one where there is an NVIDIA driver."""
    return int(device.startswith("cuda") or (device == "auto" and shutil.which("nvidia-smi") is not None))


def claim_results():
    """Refuse to run twice at once on the same results; the kernel frees the claim even after SIGKILL."""
    or_exit(preflight.claim, Path(RESULTS))


def print_table():
    """Show the table, if this run was asked for it."""
    wanted = {str(target) for target in workflow.dag.targetfiles} | {rule.name for rule in workflow.dag.targetrules}
    table = Path(RESULTS, "summary.txt")
    if "eval_all" in wanted and table.is_file():
        print(table.read_text(encoding="utf-8"), flush=True)
