"""Paths and parameters for the rules. All knowledge of them is in t2ipal.layout; here it is only asked."""

import os
import sys
from pathlib import Path

from t2ipal import preflight
from t2ipal.budget.plan import check_disk, plan
from t2ipal.acquisition import room
from t2ipal.acquisition.catalogue import item, items
from t2ipal.config import members
from t2ipal.config import parse as parse_config
from t2ipal.errors import UserError
from t2ipal.io import canonical_json
from t2ipal import demands, devices, leftovers
from t2ipal.batches import Batch, PartBatch, ShardBatch, batches, part_batches, shard_batches
from t2ipal.experiments import NAMES as EXPERIMENT_NAMES
from t2ipal.experiments import Experiment, chosen, experiments
from t2ipal.layout import Layout
from t2ipal.units import Unit, closure

# Two jobs of one thread each are faster than one job of two threads; Snakemake sets OMP_NUM_THREADS from this.
THREADS = 1
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
# One for each benchmark of the run.
LAYOUTS = [Layout(member) for member in or_exit(members, CONFIG)]
LAYOUT = LAYOUTS[0]


def _experiments():
    """All tables and studies; none while a model is missing, so that `snakemake pack` can make it."""
    try:
        return experiments(CONFIG)
    except UserError:
        return {}


EXPERIMENTS = _experiments()
# What the target `studies` stands for.
STUDY_NAMES = [name for name in EXPERIMENT_NAMES if name.startswith("study_")]
# Jobs of several trainings or evaluations; one that is asked for makes all of its units.
BATCHES = batches(EXPERIMENTS, CONFIG.training.models_per_job)
# Where the workflow computes itself, as many jobs with a GPU run at once as there are GPUs. With an executor of other
# machines (`--jobs`) those of this one say nothing.
GPUS = len(devices.visible())
if "gpu" not in workflow.global_resources and workflow.resource_settings.nodes is None:
    workflow.register_resource("gpu", GPUS)


def _drawn():
    """The images that tables, studies and `synthesis_all`, `verification_all` ask for."""
    found = {name: [unit for unit in table.units if unit.stage == "synthesis"] for name, table in EXPERIMENTS.items()}
    if found:
        found["verification"] = [layout.synthesis(seed) for layout in LAYOUTS for seed in layout.config.seeds]
    return found


SHARD_BATCHES = shard_batches(_drawn(), CONFIG.synthesis.shards_per_job)
# Jobs of several parts of synthetic features; those of one part are one rule.
PARTS_PER_JOB = CONFIG.features.parts_per_job
PART_BATCHES = part_batches(EXPERIMENTS, PARTS_PER_JOB) if PARTS_PER_JOB > 1 else []
# Manifests of downloads: item of the catalogue, directory, and addresses to ask first.
DOWNLOADS = {
    str(found.manifest(Path(layout.config.benchmark.downloads))): (found.name, layout.config.benchmark)
    for layout in LAYOUTS
    for found in items().values()
}


# The pack's gates are measured on validation scenes, which the embedded benchmark alone has.
EMBEDDED = LAYOUT.config.benchmark.name == "openmoji"


def verifications() -> list[Unit]:
    """The scores of the synthetic images of all seeds, whether or not a method asks for them."""
    return [layout.verification(seed) for layout in LAYOUTS for seed in layout.config.seeds]


def _checked_units():
    for layout in LAYOUTS:
        preflight.check(layout.config)
    ends = [entry.unit for found in (EXPERIMENTS or experiments(CONFIG)).values() for entry in found.entries]
    gaps = [gap for layout in LAYOUTS for gap in layout.gaps()]
    gate = [LAYOUT.features("val", CONFIG.seeds[0]), LAYOUT.training("tai-dpt", CONFIG.seeds[0])] if EMBEDDED else []
    found = {}
    for unit in closure([*ends, *gaps, *verifications(), *gate]):
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
    return [str(path) for path in LAYOUT.files(unit)]


def shard_files(stage: str, wildcards) -> list[str]:
    """Tar and manifest behind one part of synthetic features or verification: parts and shards share numbers."""
    return [str(path) for path in LAYOUT.shard(upstream(unit(stage, wildcards), "synthesis"), wildcards.part)]


def all_outputs(experiment: str = "summary") -> list[str]:
    """The files of all units of a table: Snakemake misses a deleted file only where it is asked for by name."""
    return [path for found in experiment_units(experiment) for path in files(found)]


def experiment_units(experiment: str) -> list[Unit]:
    """The units that a table or study needs, after the checks of `units`."""
    return experiment_of(experiment).units


def experiment_of(name: str) -> Experiment:
    """A table or study, after the checks of `units`; one that the configuration has none of says why."""
    return units() and or_exit(chosen, EXPERIMENTS, name, CONFIG)


def outputs(stage: str, experiment: str = "summary") -> list[str]:
    """The files of a table's units of one stage."""
    return [path for found in experiment_units(experiment) if found.stage == stage for path in files(found)]


def verification_outputs() -> list[str]:
    """The files of all verifications."""
    return units() and [path for found in verifications() for path in files(found)]


def gap_outputs() -> list[str]:
    """The measurements of the modality gap."""
    return units() and [path for layout in LAYOUTS for found in layout.gaps() for path in files(found)]


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


def part_inputs(batch: PartBatch) -> list[str]:
    """The shards that a batch of parts is made from: archives and manifests."""
    return [path for piece in batch.pieces for path in map(str, LAYOUT.shard(batch.synthesis, piece))]


def part_outputs(batch: PartBatch) -> list[str]:
    """The files of a batch of parts."""
    folder = LAYOUT.directory(batch.unit)
    return [f"{folder}/part-{piece}.parquet" for piece in batch.pieces]


def part_options(batch: PartBatch) -> list[str]:
    """Shards and parts as options of `t2ipal features`."""
    pairs = zip(part_inputs(batch)[::2], part_outputs(batch))
    return [word for shard, part in pairs for word in ("--shard-file", shard, "--output", part)]


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
    """GPUs that a job on `device` occupies; `auto` counts as one where there are any, and always on a cluster."""
    return int(device.startswith("cuda") or (device == "auto" and (GPUS > 0 or workflow.non_local_exec)))


def from_profile(name: str):
    """A default resource of the profile, as it is written there; None where it is not set."""
    return getattr((workflow.resource_settings.default_resources or {}).get(name), "raw", None)


def gpu_type(device: str) -> str:
    """The type of GPU that the profile's `gpu_type` names, for jobs that ask for one."""
    return str(from_profile("gpu_type") or "") if gpus(device) else ""


def grown(amount, most: str):
    """A `resources` function: an amount, or what a function of the wildcards gives, times the attempt.

    So a retried job asks for more memory and time, up to what the profile's resource `most` allows: beyond, a cluster
    would never start it. Resources are no reason to rerun.
    """

    def resource(wildcards, attempt):
        asked = attempt * (amount(wildcards) if callable(amount) else amount)
        return min(asked, int(from_profile(most) or asked))

    return resource


def memory(amount):
    """A `resources` function: MB, and more with each attempt."""
    return grown(amount, "max_mem_mb")


def minutes(amount):
    """A `resources` function: minutes, and more with each attempt."""
    return grown(amount, "max_runtime")


def operation(unit: Unit) -> dict:
    """How a unit's jobs are to go about it; the device of a stage that has none is the CPU."""
    return {"device": "cpu", **unit.operation}


def operations(stage: str, key: str):
    """A `resources` function, as these are no reason to rerun: a value of the unit's operation.

    As text, since Snakemake cuts off what follows the point of a number.
    """
    return lambda wildcards: str(operation(unit(stage, wildcards))[key])


def gpus_of(stage: str):
    """A `resources` function: the GPUs that a job of the unit occupies."""
    return lambda wildcards: gpus(operation(unit(stage, wildcards))["device"])


def gpu_type_of(stage: str):
    """A `resources` function: the type of GPU for a job of the unit."""
    return lambda wildcards: gpu_type(operation(unit(stage, wildcards))["device"])


def encoder_memory(stage: str):
    """MB for a job of the unit's CLIP, and for the processes that decode images beside it."""

    def amount(wildcards) -> int:
        settings = unit(stage, wildcards).settings
        decoding = stage == "features" and settings["source"] != "captions"
        return demands.encoder_memory(settings["backbone"], wanted_decoders(wildcards) if decoding else 0)

    return amount


def wanted_decoders(wildcards) -> int:
    """Processes that decode the images of a features job; a CPU that encodes has no time left for them."""
    return decoders_of(operation(unit("features", wildcards)))


def decoders_of(asked: dict) -> int:
    """Processes that decode images for a job of that operation."""
    return asked["workers"] if asked["workers"] is not None else 8 * gpus(asked["device"])


def feature_threads(wildcards) -> int:
    """A thread for each process that decodes."""
    return max(THREADS, wanted_decoders(wildcards))


def decoders(wildcards, threads) -> str:
    """A `resources` function: as many processes as there are threads for them, where there are to be any."""
    return str(threads if wanted_decoders(wildcards) else 0)


def needs(found: Unit) -> list[str]:
    """The manifests of downloads that a unit is made from; `ancient`, as their age says nothing."""
    return [ancient(path) for path in found.needs]


def image_options(wildcards) -> list[str]:
    """The list of a benchmark's image files as options of `t2ipal features`; none where images are rendered."""
    found = unit("features", wildcards).upstream
    return ["--index", files(found[0])[0]] if found else []


def caption_memory(wildcards) -> int:
    """MB for the captions: more where a language model or the pools of a corpus are held."""
    found = unit("captions", wildcards)
    used = {name for name in ("llm", "corpus") if name in found.settings}
    in_job = "llm" in used and found.operation["url"] is None
    return 8000 if in_job else 2000 if used else 1000


def caption_device(wildcards) -> str:
    """The device of a language model that runs in the captions' own job, not at a server."""
    asking = unit("captions", wildcards).operation
    return asking["device"] if asking and asking["url"] is None else "cpu"


def acquired() -> list[str]:
    """The manifests of all downloads that the table needs."""
    return units() and list(dict.fromkeys(path for found in experiment_units("summary") for path in found.needs))


def claim_results():
    """Refuse to run twice at once on the same results, or for a disk that is too small for the images.

    The kernel frees the claim even after SIGKILL.
    """
    or_exit(preflight.claim, Path(RESULTS))
    prefix = getattr(workflow.executor_settings, "jobname_prefix", None)
    if prefix:
        or_exit(leftovers.refuse_left_behind, prefix, Path.cwd())
    or_exit(check_downloads)
    for name in EXPERIMENTS.keys() & asked_for():
        for layout in LAYOUTS:
            found = EXPERIMENTS[name].on(layout.config.benchmark)
            or_exit(check_disk, plan(layout.config, found), RESULTS)


def check_downloads():
    """Say what the downloads of this run need of the disk, and refuse one that is too small for them."""
    for (folder, mirrors), names in planned_downloads().items():
        asked = [item(name) for name in names], Path(folder), mirrors
        print(room.render(*asked), flush=True)
        room.check_rooms(*asked)
        preflight.check_writable(Path(folder), "benchmark.downloads")


def planned_downloads() -> dict[tuple[str, tuple[str, ...]], list[str]]:
    """The items that jobs of this run will download, by directory and mirrors."""
    found = {}
    for job in workflow.dag.needrun_jobs():
        for path in map(str, job.output):
            if path in DOWNLOADS:
                name, settings = DOWNLOADS[path]
                found.setdefault((settings.downloads, settings.mirrors), []).append(name)
    return found


def asked_for() -> set[str]:
    """The tables and studies that the targets of this run are or belong to."""
    wanted = {rule.name for rule in workflow.dag.targetrules}
    if "studies" in wanted:
        wanted.update(STUDY_NAMES)
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
