"""The summary stage: all numbers of a run in one JSON file, one CSV file, and one table on the terminal."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from t2ipal.config import Config
from t2ipal.errors import UserError
from t2ipal.evaluation.predictions import FILE
from t2ipal.experiments import Experiment, named
from t2ipal.io import write_json, write_text
from t2ipal.reporting import curves
from t2ipal.reporting.records import Record, Result, Row, collect, records, rows
from t2ipal.reporting.study import study_text
from t2ipal.reporting.table import plain_text

COLUMNS = (
    "statistic",
    "benchmark",
    "method",
    "backbone",
    "trained_on",
    "metric",
    "seed",
    "value",
    "protocol",
    "fingerprint",
)


def _plain(item: Record | Row, study: bool) -> dict[str, Any]:
    """A record or row as a mapping; only those of a study have a point."""
    values = asdict(item)
    return values if study else {key: value for key, value in values.items() if key != "point"}


def csv_text(found: Sequence[Record], joined: Sequence[Row], study: bool = False) -> str:
    """Records (statistic ``value``), then rows as two lines each (``mean``, ``sd``) without seed and fingerprint."""
    columns = (*COLUMNS, "point") if study else COLUMNS
    sources = {(row.benchmark, row.method): row.trained_on for row in joined}
    lines = [{"statistic": "value", "trained_on": sources[r.benchmark, r.method], **_plain(r, study)} for r in found]
    for row in joined:
        common = {key: value for key, value in _plain(row, study).items() if key in columns}
        lines += [{**common, "statistic": "mean", "value": row.mean}, {**common, "statistic": "sd", "value": row.sd}]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def _show(text: str) -> None:
    """Print, also where the terminal's encoding lacks a character."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), end="")


def _unmeasured(experiment: Experiment, results: Sequence[Result]) -> str:
    """Where the predictions of images without labels are, of which there are no numbers."""
    pairs = zip(experiment.entries, results, strict=True)
    where = [entry.layout.directory(entry.unit) / FILE for entry, result in pairs if not result.content.metrics]
    lines = ["no label of these images is known, so nothing is measured; what is recognised in them is in", *where]
    return "".join(f"{line}\n" for line in dict.fromkeys(lines)) if where else ""


def write_summary(config: Config, output: Path, name: str = "summary") -> None:
    """Write ``output`` (JSON, last) and beside it the same as ``.csv`` and the table as ``.txt``; print the table.

    All but the table of ``eval_all`` are also drawn, as ``.svg``. The bytes depend on the metrics files and the
    configuration only.

    Args:
        config: the configuration.
        output: the JSON file.
        name: the experiment (``t2ipal.experiments``).

    Raises:
        UserError: there is no such experiment, a metrics file is missing or damaged, or the directory cannot be
            written.
    """
    experiment = named(config, name)
    study = experiment.label is not None
    results = collect(experiment)
    found = records(results)
    joined = rows(found, config)
    table = study_text(experiment, joined) if study else plain_text(joined) + _unmeasured(experiment, results)
    content: dict[str, Any] = {
        "records": [_plain(item, study) for item in found],
        "rows": [_plain(item, study) for item in joined],
    }
    try:
        write_text(output.with_suffix(".csv"), csv_text(found, joined, study))
        write_text(output.with_suffix(".txt"), table)
        if name != "summary":
            write_text(output.with_suffix(".svg"), curves.draw(experiment, joined))
            content |= {"experiment": name, "title": experiment.title, "axis": experiment.label}
        write_json(output, content)
    except OSError as error:
        raise UserError(f"cannot write the summary to {output.parent}: {error.strerror}") from None
    _show(table)
