"""The report: one HTML file that needs no network, no script and no other file."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from t2ipal import benchmarks
from t2ipal.config import Config, members
from t2ipal.errors import UserError
from t2ipal.experiments import experiments
from t2ipal.identity import local_directory
from t2ipal.io import write_text
from t2ipal.reporting.records import collect
from t2ipal.reporting.sections import sections

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def _printable(value: Any) -> Any:
    """Text without control characters and lone surrogates, which HTML or UTF-8 cannot hold; newlines stay."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value)
    return value


def _environment() -> Environment:
    """Templates of this package; every value is escaped, an unknown name is an error."""
    return Environment(
        loader=PackageLoader("t2ipal.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shows_drawings(config: Config) -> bool:
    """Whether images of the embedded benchmark or of the embedded generator may be shown, whose makers are named."""
    model = local_directory(config.synthesis.model)
    pack = Path(str(files("t2ipal.pack")), "models").resolve()
    return config.benchmark.name == "openmoji" or (model is not None and model.resolve().is_relative_to(pack))


def render(config: Config) -> str:
    """The report as HTML. Its bytes depend on the run's files, the configuration and the installed versions only.

    Raises:
        UserError: a metrics file is missing or damaged; a shard, model or feature file that is there is damaged.
    """
    summary = experiments(config)["summary"]
    results = collect(summary)
    template = _environment().get_template("report.html.j2")
    found = [benchmarks.load(member.benchmark) for member in members(config)]
    return template.render(
        benchmark=", ".join(dict.fromkeys(benchmark.settings.name for benchmark in found)),
        embedded=any(map(_shows_drawings, members(config))),
        attribution=" ".join(dict.fromkeys(benchmark.attribution for benchmark in found)),
        sections=sections(config, results, summary.units),
    )


def write_report(config: Config, output: Path) -> None:
    """Write the report to ``output``.

    Raises:
        UserError: see ``render``; or the file cannot be written.
    """
    page = render(config)
    try:
        write_text(output, page)
    except OSError as error:
        raise UserError(f"cannot write the report {output}: {error.strerror}") from None
