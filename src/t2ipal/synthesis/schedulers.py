"""The scheduler of a pipeline, by class name and options."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from t2ipal.errors import UserError
from t2ipal.hub import first_line
from t2ipal.synthesis.complaints import LOADING

# What pipelines ask of a scheduler; a new one must have what the model's own has.
_INTERFACE = ("set_timesteps", "step", "scale_model_input", "init_noise_sigma", "order")


@cache
def schedulers() -> dict[str, Any]:
    """All scheduler classes of ``diffusers`` by name."""
    import diffusers
    from diffusers import SchedulerMixin

    found = {name: getattr(diffusers, name) for name in dir(diffusers) if name.endswith("Scheduler")}
    return {
        name: value for name, value in found.items() if inspect.isclass(value) and issubclass(value, SchedulerMixin)
    }


def _nearest(word: str, known: Iterable[str]) -> str:
    """The names in ``known`` that are most like ``word``; all when none is."""
    plain = {name.lower().removesuffix("scheduler"): name for name in sorted(known)}
    sought = word.lower().removesuffix("scheduler")
    inside = [key for key in plain if sought and sought in key]
    near = list(dict.fromkeys([*difflib.get_close_matches(sought, plain, 2), *inside[:3]]))
    names = [plain[key] for key in near]
    return f"did you mean {' or '.join(names)}?" if names else f"choose one of {', '.join(plain.values())}"


def _scheduler_class(name: str) -> Any:
    found = schedulers().get(name)
    if found is None:
        raise UserError(f"synthesis.scheduler '{name}' is no scheduler of diffusers; {_nearest(name, schedulers())}")
    return found


def _build(kind: Any, config: Mapping[str, Any], options: Mapping[str, Any], steps: int) -> Any:
    scheduler = kind.from_config(config, **options)
    # Some values are only looked at when the steps are laid out.
    if "mu" not in inspect.signature(scheduler.set_timesteps).parameters:
        scheduler.set_timesteps(steps)
    return scheduler


def scheduler_of(pipeline: Any, name: str | None, options: Mapping[str, Any], steps: int) -> Any:
    """The scheduler called ``name`` (None: of the pipeline's own class), as the pipeline's own but for ``options``.

    Raises:
        UserError: there is no such scheduler, the pipeline cannot use it, or it does not take an option.
    """
    own = pipeline.scheduler
    kind = type(own) if name is None else _scheduler_class(name)
    accepted = [key for key in inspect.signature(kind.__init__).parameters if key not in ("self", "kwargs")]
    for option in options:
        if option not in accepted:
            raise UserError(
                f"synthesis.scheduler_options: {kind.__name__} has no option '{option}'; {_nearest(option, accepted)}"
            )
    try:
        scheduler = _build(kind, own.config, options, steps)
    except LOADING as error:
        raise UserError(_refusal(kind, own.config, options, steps, error)) from error
    misfit = _misfit(own, scheduler)
    if misfit:
        raise UserError(
            f"synthesis.scheduler: a {type(pipeline).__name__} cannot use a {kind.__name__} ({misfit}); "
            f"choose one like {type(own).__name__}"
        )
    return scheduler


def _required(function: Any) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    return {each.name for each in parameters if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD}


def _misfit(own: Any, other: Any) -> str | None:
    """What keeps ``other`` from taking the place of ``own``."""
    lacking = [part for part in _INTERFACE if hasattr(own, part) and not hasattr(other, part)]
    if lacking:
        return f"it has no {lacking[0]}"
    unheard_of = sorted(_required(other.step) - _required(own.step))
    return f"its step needs {unheard_of[0]}" if unheard_of else None


def _refusal(kind: Any, config: Mapping[str, Any], options: Mapping[str, Any], steps: int, error: BaseException) -> str:
    """One sentence that names the option at fault: the first that is refused alone."""
    for option, value in options.items():
        try:
            _build(kind, config, {option: value}, steps)
        except LOADING as reason:
            return f"synthesis.scheduler_options: {kind.__name__} refuses {option}={value!r}: {first_line(reason)}"
    return f"synthesis.scheduler: {kind.__name__} refuses this model's settings or {steps} steps: {first_line(error)}"
