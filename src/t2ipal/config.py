"""The whole configuration: reading, checking and changing it. Unknown keys are refused; sections are in settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from t2ipal.errors import UserError
from t2ipal.methods import EVAL, METHODS
from t2ipal.settings import (
    AdapterSettings,
    BackboneChoice,
    BenchmarkSettings,
    CaptionSettings,
    ClipAdapterSettings,
    DualSettings,
    FeatureSettings,
    LinearSettings,
    LossSettings,
    PackSettings,
    PromptSettings,
    RealSettings,
    ScoreSettings,
    Strict,
    StudySettings,
    SynthesisSettings,
    TrainingSettings,
    VariantSettings,
    VerificationSettings,
)


class Config(Strict):
    """Everything a run depends on."""

    results: str = Field("results", min_length=1, description="Directory that receives every artefact.")
    scratch: str | None = Field(
        None, description="Directory of each node's own, as $TMPDIR, for images being drawn; none: in results."
    )
    methods: tuple[str, ...] = Field(EVAL, min_length=1, description="Rows of the results table (docs/method.md).")
    variants: dict[str, VariantSettings] = Field(
        {}, description="Rows of one's own, by name: {method: t2i-pal, set: {prompts.length: 16}}."
    )
    backbones: tuple[BackboneChoice, ...] = Field((), description="Backbones compared by `snakemake backbones`.")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="Seeds; each one is a row of results.")
    redraw_per_seed: bool = Field(
        True, description="Draw captions and images anew for every seed; false shares the first seed's among all."
    )
    together: tuple[str, ...] = Field(
        (), description="Evaluate several benchmarks in one table: overlay files, each one merged over this one."
    )
    benchmark: BenchmarkSettings = Field(BenchmarkSettings(), description="Benchmark.")
    captions: CaptionSettings = Field(CaptionSettings(), description="Captions.")
    synthesis: SynthesisSettings = Field(SynthesisSettings(), description="Synthetic images.")
    verification: VerificationSettings = Field(VerificationSettings(), description="Verification of synthetic images.")
    features: FeatureSettings = Field(FeatureSettings(), description="CLIP features.")
    prompts: PromptSettings = Field(PromptSettings(), description="Prompts.")
    scores: ScoreSettings = Field(ScoreSettings(), description="Scores.")
    adapter: AdapterSettings = Field(AdapterSettings(), description="Adapter.")
    linear: LinearSettings = Field(LinearSettings(), description="CoMC-style baseline.")
    dual: DualSettings = Field(DualSettings(), description="DualCoOp baseline.")
    clip_adapter: ClipAdapterSettings = Field(ClipAdapterSettings(), description="CLIP-Adapter baseline.")
    loss: LossSettings = Field(LossSettings(), description="Loss.")
    training: TrainingSettings = Field(TrainingSettings(), description="Training.")
    real: RealSettings = Field(RealSettings(), description="Real images of few-shot and partial-label methods.")
    studies: StudySettings = Field(StudySettings(), description="Studies.")
    pack: PackSettings = Field(PackSettings(), description="Training of the embedded models.")

    @field_validator("seeds", "methods")
    @classmethod
    def _distinct(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(value)) != len(value):
            raise ValueError("lists the same entry twice")
        return value

    @field_validator("seeds")
    @classmethod
    def _non_negative(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if min(value) < 0:
            raise ValueError("seeds must not be negative")
        return value

    @model_validator(mode="after")
    def _methods_exist(self) -> Config:
        for name, variant in self.variants.items():
            if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]*", name) or name in METHODS:
                raise ValueError(
                    f"variants: '{name}' must be a new name of lower-case letters, digits, '-', '+' and '.'"
                )
            if variant.method not in METHODS:
                raise ValueError(
                    f"variants.{name}.method: no method '{variant.method}'; there are {', '.join(METHODS)}"
                )
        for name in self.methods:
            if name not in METHODS and name not in self.variants:
                known = ", ".join([*METHODS, *self.variants])
                raise ValueError(f"methods: no method '{name}'; there are {known}")
        return self

    @model_validator(mode="after")
    def _batch_fits_shard(self) -> Config:
        if self.synthesis.shard_size % self.synthesis.batch_size:
            raise ValueError(
                "synthesis.shard_size must be a multiple of synthesis.batch_size, "
                "so that which images are denoised together does not depend on the shard"
            )
        return self


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """The configuration with values set by dotted keys, as ``{"prompts.length": 16}``.

    Raises:
        UserError: a key is unknown or its value does not fit.
    """
    if not changes:
        return config
    values = config.model_dump()
    for key, value in changes.items():
        *sections, last = key.split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise UserError(f"config key '{key}' is unknown: '{section}' is no section")
        target[last] = value
    return parse(values)


def _sentence(error: ValidationError) -> str:
    """The first problem of a validation error as one sentence that names the key and the mend."""
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"]) or "config"
    if problem["type"] == "extra_forbidden":
        return f"config key '{key}' is unknown{_suggestion(problem['loc'])}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"config key '{key}': {message} (given: {problem['input']!r})" if problem["loc"] else message


def _suggestion(location: tuple[int | str, ...]) -> str:
    import difflib

    model: Any = Config
    for part in location[:-1]:
        model = model.model_fields[part].annotation if part in getattr(model, "model_fields", {}) else None
        if model is None:
            return ""
    close = difflib.get_close_matches(str(location[-1]), model.model_fields, n=1)
    return f"; did you mean '{'.'.join([*map(str, location[:-1]), close[0]])}'?" if close else ""


def parse(values: dict[str, Any]) -> Config:
    """Check a mapping as read from YAML.

    Raises:
        UserError: a key is unknown, of the wrong type or out of range; names the key.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(_sentence(error)) from None


def merged(values: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with those of ``overlay`` over them, section by section, as Snakemake merges configuration files."""
    found = dict(values)
    for key, value in overlay.items():
        below = found.get(key)
        found[key] = merged(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return found


def members(config: Config) -> list[Config]:
    """The configurations of a run, one per benchmark: those of ``together``, or the configuration itself.

    Raises:
        UserError: a file of ``together`` is missing or does not fit, names ``results`` or ``together`` itself, or is
            about the same benchmark as another one.
    """
    if not config.together:
        return [config]
    base, found = config.model_dump(mode="json", exclude={"together"}), []
    for name in config.together:
        overlay = _mapping(Path(name))
        for key in ("results", "together"):
            if key in overlay:
                raise UserError(f"config file {name} cannot set '{key}' where it is named by config key 'together'")
        found.append(parse(merged(base, overlay)))
        if found[-1].benchmark.name in {member.benchmark.name for member in found[:-1]}:
            raise UserError(
                f"config file {name} (config key 'together') is about benchmark '{found[-1].benchmark.name}', "
                "as another one is; evaluate them one after the other, which shares all work that is the same"
            )
    return found


def layered(files: Sequence[Path], base: Path = Path("config.yaml")) -> Config:
    """What Snakemake makes of ``config.yaml``, if it is there, and of overlays in their order.

    Raises:
        UserError: see ``load``.
    """
    values: dict[str, Any] = _mapping(base) if base.is_file() else {}
    for path in files:
        values = merged(values, _mapping(path))
    return parse(values)


def load(path: Path) -> Config:
    """Read and check a YAML file.

    Raises:
        UserError: the file is missing, not YAML, or its content does not fit.
    """
    return parse(_mapping(path))


def _mapping(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read config file {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UserError(f"config file {path} is not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(values, dict):
        raise UserError(f"config file {path} must hold a mapping of keys to values")
    return values
