"""The scheduler of a pipeline, by class name and options."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

from t2ipal.errors import UserError
from t2ipal.synthesis.complaints import LOADING, first_line

# What pipelines ask of a scheduler; a new one must have what the model's own has.
_INTERFACE = ("set_timesteps", "step", "scale_model_input", "init_noise_sigma")


@cache
def schedulers() -> dict[str, Any]:
    """All scheduler classes of ``diffusers`` by name."""
    import diffusers
    from diffusers import SchedulerMixin

    found = {name: getattr(diffusers, name) for name in dir(diffusers) if name.endswith("Scheduler")}
    return {
        name: value for name, value in found.items() if inspect.isclass(value) and issubclass(value, SchedulerMixin)
    }


def _nearest(word: str, known: Any) -> str:
    """``; did you mean A or B?``, or what there is when nothing is near."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, cutoff=0.4)
    return f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}"


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
    lacking = [part for part in _INTERFACE if hasattr(own, part) and not hasattr(scheduler, part)]
    if lacking:
        raise UserError(
            f"synthesis.scheduler: a {type(pipeline).__name__} cannot use a {kind.__name__} "
            f"(it has no {lacking[0]}); choose one like {type(own).__name__}"
        )
    return scheduler


def _refusal(kind: Any, config: Mapping[str, Any], options: Mapping[str, Any], steps: int, error: BaseException) -> str:
    """One sentence that names the option at fault: the first that is refused alone."""
    for option, value in options.items():
        try:
            _build(kind, config, {option: value}, steps)
        except LOADING as reason:
            return f"synthesis.scheduler_options: {kind.__name__} refuses {option}={value!r}: {first_line(reason)}"
    return f"synthesis.scheduler: {kind.__name__} refuses the settings of this model: {first_line(error)}"
