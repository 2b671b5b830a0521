"""Whether this machine is fit for a run: Python, packages, GPU, memory, disk, models, hub, profile."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from t2ipal import demands, devices, preflight
from t2ipal.acquisition.catalogue import needed_bytes
from t2ipal.acquisition.room import free_bytes, shown_bytes
from t2ipal.budget.plan import needed_items, plan
from t2ipal.config import Config, members
from t2ipal.diagnosis.findings import Check, Finding, fail, ok, warn
from t2ipal.errors import UserError
from t2ipal.experiments import Experiment, named
from t2ipal.identity import local_directory

HUB = "https://huggingface.co"
_SECONDS = 10
_LEAST_PYTHON = (3, 11)


@dataclass
class Machine:
    """What the checks look at: a configuration, and what it asks of this machine."""

    config: Config

    @cached_property
    def members(self) -> list[Config]:
        """A configuration for each benchmark."""
        return members(self.config)

    @cached_property
    def experiment(self) -> Experiment:
        """That of ``eval_all``."""
        return named(self.config, "summary")

    @cached_property
    def hub_models(self) -> list[str]:
        """Models that are not in a directory of this machine, in the order of use."""
        found = []
        for config in self.members:
            asked = [config.features.backbone]
            if "synthesis" in {unit.stage for unit in self.experiment.on(config.benchmark).units}:
                asked.append(config.synthesis.model)
            found += [model for model in asked if local_directory(model) is None and not Path(model).is_file()]
        return list(dict.fromkeys(found))


def _python(machine: Machine) -> Finding:
    said = f"Python {sys.version.split()[0]} at {sys.executable}"
    if sys.version_info < _LEAST_PYTHON:
        return fail(said, "install Python 3.11 or newer and set the environment up with it")
    return ok(said)


def _lacking() -> Iterator[str]:
    for text in requires("t2ipal") or ():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            there = version(wanted.name)
        except PackageNotFoundError:
            yield f"{wanted.name} is not installed"
            continue
        if not wanted.specifier.contains(there, prereleases=True):
            yield f"{wanted.name} is {there}, not {wanted.specifier}"


def _packages(machine: Machine) -> Finding:
    lacking = list(_lacking())
    if lacking:
        return fail("; ".join(lacking), "run `make setup`, or pip install -e . in this environment")
    return ok(f"all that t2ipal {version('t2ipal')} requires")


def _torch(machine: Machine) -> Finding:
    try:
        import torch
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError, OSError) as error:
        return fail(f"torch cannot be imported: {error}", "install torch and the torchvision that belongs to it")
    gpus = devices.visible()
    wanted = {config.synthesis.device for config in machine.members} | {c.features.device for c in machine.members}
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return ok(f"torch {torch.__version__} with CUDA {torch.version.cuda}: {names}")
    if gpus:
        mend = "install a torch that is built for CUDA and for the driver of this machine"
        return fail(f"there are {len(gpus)} GPUs, but torch {torch.__version__} does not see them", mend)
    if any(device.startswith("cuda") for device in wanted):
        return fail(f"torch {torch.__version__} sees no GPU, and a device is set to cuda", "set devices to auto or cpu")
    if any(local_directory(model) is None for model in (config.synthesis.model for config in machine.members)):
        mend = "run on a machine with a GPU; drawing an image takes a minute or more on a CPU"
        return warn(f"torch {torch.__version__} sees no GPU", mend)
    return ok(f"torch {torch.__version__} on the CPU; there is no GPU, and the embedded models need none")


def _memory(machine: Machine) -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    needed = max(
        max(demands.encoder_memory(config.features.backbone), demands.synthesis_memory(config.synthesis))
        for config in machine.members
    )
    said = f"{total:,} MiB, of which a job may want {needed:,}"
    return ok(said) if total >= needed else warn(said, "run with --cores 1, so that one job has all of it")


def _results(machine: Machine) -> Finding:
    preflight.check_writable(Path(machine.config.results))
    plans = [plan(config, machine.experiment.on(config.benchmark)) for config in machine.members]
    needed, free = int(sum(found.bytes_left for found in plans)), free_bytes(Path(machine.config.results))
    said = f"{machine.config.results}: images want {shown_bytes(needed)}, {shown_bytes(free)} are free"
    return ok(said) if all(found.fits for found in plans) else fail(said, "set key 'results' to a larger disk")


def _downloads(machine: Machine) -> Finding:
    needed: dict[Path, dict[str, int]] = {}
    for config in machine.members:
        given = config.benchmark
        folder = Path(given.downloads)
        for item in needed_items(config, machine.experiment.on(given)):
            needed.setdefault(folder, {})[item.name] = needed_bytes([item], folder, given.mirrors)
    missing = {folder: sum(sizes.values()) for folder, sizes in needed.items() if any(sizes.values())}
    if not missing:
        return ok("nothing is left to download")
    said = "; ".join(
        f"{folder}: {shown_bytes(size)} wanted, {shown_bytes(free_bytes(folder))} free"
        for folder, size in missing.items()
    )
    if any(size > free_bytes(folder) for folder, size in missing.items()):
        return fail(said, "set key 'benchmark.downloads' to a larger disk")
    return ok(said)


def _models(machine: Machine) -> Finding:
    for config in machine.members:
        preflight.check(config)
    local = [c for config in machine.members for c in (config.features.backbone, config.synthesis.model)]
    names = list(dict.fromkeys(model for model in local if local_directory(model) is not None))
    return ok(f"whole: {', '.join(names)}" if names else "none is in a directory of this machine")


def _hub(machine: Machine) -> Finding:
    if not machine.hub_models:
        return ok("not needed: all models are on this machine")
    models, hub = ", ".join(machine.hub_models), os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return warn(f"HF_HUB_OFFLINE is set: {models} must be in the cache", "unset it for the first run")
    try:
        with urllib.request.urlopen(urllib.request.Request(hub, method="HEAD"), timeout=_SECONDS):
            pass
    except urllib.error.HTTPError:
        pass  # it is there, and says so
    except (OSError, ValueError) as error:
        mend = "connect, or download the models elsewhere and name them by local-dir:PATH (docs/backbones.md)"
        return warn(f"{hub} cannot be reached ({error}), from where {models} would come", mend)
    return ok(f"{hub} answers, for {models}")


def _profile(machine: Machine) -> Finding:
    found = next(
        (path for path in (Path("profiles/default"), Path("workflow/profiles/default")) if path.is_dir()), None
    )
    if found is None:
        mend = "run Snakemake in the checkout, or in a project that t2ipal init wrote"
        return warn("there is no profiles/default here, so that Snakemake works with its own defaults", mend)
    return ok(f"{found}, which Snakemake finds by itself")


_CHECKS: tuple[tuple[str, Callable[[Machine], Finding]], ...] = (
    ("python", _python),
    ("packages", _packages),
    ("torch", _torch),
    ("memory", _memory),
    ("models", _models),
    ("hub", _hub),
    ("results", _results),
    ("downloads", _downloads),
    ("profile", _profile),
)


def checks(config: Config) -> list[Check]:
    """The checks of this machine for a run of ``config``, in the order of how basic they are."""
    machine = Machine(config)

    def looking(look: Callable[[Machine], Finding]) -> Callable[[], Finding]:
        def found() -> Finding:
            try:
                return look(machine)
            except UserError as error:
                return fail(str(error), "mend this first; other checks may depend on it")

        return found

    return [Check(name, looking(look)) for name, look in _CHECKS]
