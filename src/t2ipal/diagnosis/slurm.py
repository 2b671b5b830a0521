"""Whether a SLURM cluster and the profile for it are fit for a run. Its commands are asked; no job is started."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from getpass import getuser
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from t2ipal.config import Config
from t2ipal.diagnosis import sharing
from t2ipal.diagnosis.findings import Check, Finding, fail, ok, warn

PLUGIN = "snakemake-executor-plugin-slurm"
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "sinfo", "scontrol")
ASK_SECONDS = 30


@dataclass(frozen=True)
class Partition:
    """A row of ``sinfo``: nodes of a partition that are alike. ``minutes`` is None where time is unlimited."""

    name: str
    default: bool
    up: bool
    minutes: int | None
    memory_mb: int
    gpus: tuple[str, ...]

    @classmethod
    def of(cls, line: str) -> Partition:
        """The partition of a line of ``sinfo --format='%P|%a|%l|%m|%G'``."""
        name, state, limit, memory, resources = line.split("|")
        gpus = re.findall(r"\bgpu(?::([\w.-]+?))?:\d+", resources)
        return cls(
            name.rstrip("*"), name.endswith("*"), state == "up", _minutes(limit), int(memory.rstrip("+")), tuple(gpus)
        )


def _minutes(limit: str) -> int | None:
    """SLURM's ``[days-]hours:minutes:seconds`` in minutes."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit)
    if match is None:
        return None
    days, hours, minutes, _ = (int(part or 0) for part in match.groups())
    return (days * 24 + hours) * 60 + minutes


def ask(*command: str) -> str:
    """What a command of SLURM prints.

    Raises:
        RuntimeError: it fails; holds what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_SECONDS, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip() or f"{command[0]} ended with {done.returncode}")
    return done.stdout


class Slurm:
    """The cluster as its commands describe it, and the profile as it is written. Asked once."""

    def __init__(self, profile: Path) -> None:
        self.path = profile / "config.yaml"

    @cached_property
    def profile(self) -> Mapping[str, Any]:
        """The profile; empty where it cannot be read."""
        try:
            return dict(yaml.safe_load(self.path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, yaml.YAMLError):
            return {}

    def wanted(self, name: str) -> str:
        """One of the profile's default resources as text, without quotes; empty where it is not set."""
        return str((self.profile.get("default-resources") or {}).get(name) or "").strip("'\" ")

    @cached_property
    def partitions(self) -> list[Partition]:
        """All partitions."""
        lines = ask("sinfo", "--noheader", "--format=%P|%a|%l|%m|%G").splitlines()
        return [Partition.of(line) for line in lines]

    @property
    def chosen(self) -> list[Partition]:
        """The partitions that jobs go to."""
        names = [name.strip() for name in self.wanted("slurm_partition").split(",") if name.strip()]
        return [found for found in self.partitions if (found.name in names if names else found.default)]

    @cached_property
    def settings(self) -> dict[str, str]:
        """The controller's configuration."""
        shown = ask("scontrol", "show", "config")
        return {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in shown.splitlines())}


def _commands(slurm: Slurm) -> Finding:
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        return fail(f"{', '.join(missing)} not found", "log in to the cluster's login node, or load its slurm module")
    return ok(f"{', '.join(COMMANDS)} are there")


def _plugin(slurm: Slurm) -> Finding:
    try:
        return ok(f"{PLUGIN} {version(PLUGIN)}")
    except PackageNotFoundError:
        return fail(f"{PLUGIN} is not installed", "pip install 't2ipal[slurm]'")


def _profile(slurm: Slurm) -> Finding:
    if slurm.profile.get("executor") != "slurm":
        return fail(f"{slurm.path} is no profile of SLURM", "name its directory with --profile")
    keys = ("slurm_partition", "slurm_account", "gpu_type")
    filled = [f"{key} {slurm.wanted(key)}" for key in keys if slurm.wanted(key)]
    return ok(f"{slurm.path}: {', '.join(filled) or 'nothing filled in, the defaults of the cluster are used'}")


def _controller(slurm: Slurm) -> Finding:
    try:
        count = len({found.name for found in slurm.partitions})
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        return fail(f"the cluster does not answer: {error}", "try `sinfo`, and ask its administrators")
    return ok(f"answers; it has {count} partition{'s' if count != 1 else ''}")


def _partition(slurm: Slurm) -> Finding:
    there = ", ".join(sorted({found.name for found in slurm.partitions}))
    names = [name.strip() for name in slurm.wanted("slurm_partition").split(",") if name.strip()]
    missing = [name for name in names if name not in {found.name for found in slurm.chosen}]
    if missing:
        return fail(f"there is no partition {', '.join(missing)}", f"set slurm_partition in {slurm.path}: {there}")
    if not slurm.chosen:
        return fail("the cluster has no default partition", f"set slurm_partition in {slurm.path}: {there}")
    if not any(found.up for found in slurm.chosen):
        return fail("the partition is down", f"set another slurm_partition in {slurm.path}: {there}")
    return ok(", ".join(sorted({found.name for found in slurm.chosen})) + ("" if names else " (the default)"))


def _gpu(slurm: Slurm) -> Finding:
    kinds = {kind for found in slurm.chosen for kind in found.gpus}
    wanted = slurm.wanted("gpu_type")
    there = ", ".join(sorted(filter(None, kinds)))
    if not kinds:
        having = sorted({found.name for found in slurm.partitions if found.gpus})
        mend = f"set slurm_partition in {slurm.path}: {', '.join(having)}" if having else "set the device keys to cpu"
        return fail("no node of the partition has GPUs", mend)
    if wanted and wanted not in kinds:
        mend = f"set gpu_type in {slurm.path}: {there}" if there else f"remove gpu_type from {slurm.path}"
        return fail(f"no node of the partition has GPUs of type {wanted}", mend)
    return ok(wanted or (f"any of {there}" if there else "the cluster names no types"))


def _limits(slurm: Slurm) -> Finding:
    limits = [found.minutes for found in slurm.chosen if found.minutes is not None]
    memory = max((found.memory_mb for found in slurm.chosen), default=0)
    runtime, asked = int(slurm.wanted("max_runtime") or 0), int(slurm.wanted("max_mem_mb") or 0)
    if limits and runtime > max(limits):
        return fail(
            f"max_runtime is {runtime} minutes, but the partition allows {max(limits)}: longer jobs would never start",
            f"set max_runtime to {max(limits)} in {slurm.path}",
        )
    if asked > memory > 1:
        return fail(
            f"max_mem_mb is {asked}, but its nodes have {memory}: larger jobs would be refused",
            f"set max_mem_mb to {memory} in {slurm.path}",
        )
    return ok(f"max_runtime {runtime} minutes and max_mem_mb {asked} fit the partition")


def _account(slurm: Slurm) -> Finding:
    wanted = slurm.wanted("slurm_account")
    if slurm.settings.get("AccountingStorageType", "").endswith("none"):
        if wanted:
            return fail("the cluster keeps no accounts", f"remove slurm_account from {slurm.path}")
        return ok("the cluster keeps no accounts")
    listed = ask("sacctmgr", "--noheader", "--parsable2", "list", "user", getuser(), "withassoc", "format=account")
    accounts = sorted({line.strip() for line in listed.splitlines() if line.strip()})
    if wanted and wanted.lower() not in accounts:
        return fail(f"you have no account {wanted}", f"set slurm_account in {slurm.path}: {', '.join(accounts)}")
    if not wanted and len(accounts) > 1:
        return warn("your default account pays", f"to choose, set slurm_account in {slurm.path}: {', '.join(accounts)}")
    return ok(wanted or ", ".join(accounts) or "none is needed")


def _status(slurm: Slurm) -> Finding:
    age = int(re.sub(r"\D.*", "", slurm.settings.get("MinJobAge", "")) or 0)
    first = int(slurm.profile.get("slurm-init-seconds-before-status-checks", 40))
    command = slurm.profile.get("slurm-status-command", "sacct")
    accounting = not slurm.settings.get("AccountingStorageType", "").endswith("none")
    if command == "sacct" and not accounting:
        return fail("slurm-status-command is sacct, but there is no accounting", f"set it to squeue in {slurm.path}")
    # The executor looks every three minutes at the least.
    if command == "squeue" and age < max(3 * first, 180) and not accounting:
        return warn(f"finished jobs leave the queue after {age} s: a run may miss their end", "ask for MinJobAge=300")
    return ok(f"by {command}; finished jobs stay in the queue for {age} s")


def checks(config: Config, profile: Path) -> list[Check]:
    """The checks, in the order in which things are to be mended."""
    slurm = Slurm(profile)

    def after_controller(look: Callable[[Slurm], Finding]) -> Callable[[], Finding]:
        def found() -> Finding:
            try:
                return look(slurm)
            except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
                return fail(f"could not be asked: {error}", "mend what stands above first")

        return found

    looks = {
        "commands": _commands,
        "executor": _plugin,
        "profile": _profile,
        "controller": _controller,
        "partition": _partition,
        "GPU": _gpu,
        "limits": _limits,
        "account": _account,
        "status": _status,
    }
    found = [Check(name, after_controller(look)) for name, look in looks.items()]
    return [*found, *sharing.checks(Path(config.results))]
