"""The summary stage: all numbers of a run in one JSON file, one CSV file, and one table on the terminal."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from t2ipal.config import Config
from t2ipal.errors import UserError
from t2ipal.io import write_json, write_text
from t2ipal.reporting.records import Record, Row, collect, records, rows
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


def csv_text(found: Sequence[Record], joined: Sequence[Row]) -> str:
    """Records (statistic ``value``), then rows as two lines each (``mean``, ``sd``) without seed and fingerprint."""
    trained_on = {row.method: row.trained_on for row in joined}
    lines = [{"statistic": "value", "trained_on": trained_on[record.method], **asdict(record)} for record in found]
    for row in joined:
        common = {key: value for key, value in asdict(row).items() if key in COLUMNS}
        lines += [{**common, "statistic": "mean", "value": row.mean}, {**common, "statistic": "sd", "value": row.sd}]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def _show(text: str) -> None:
    """Print, also where the terminal's encoding lacks a character."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), end="")


def write_summary(config: Config, output: Path) -> None:
    """Write ``output`` (JSON, last) and beside it the same as ``.csv`` and the table as ``.txt``; print the table.

    The bytes depend on the metrics files and the configuration only.

    Raises:
        UserError: a metrics file is missing or damaged, or the directory cannot be written.
    """
    found = records(collect(config))
    joined = rows(found)
    table = plain_text(joined)
    try:
        write_text(output.with_suffix(".csv"), csv_text(found, joined))
        write_text(output.with_suffix(".txt"), table)
        write_json(output, {"records": [asdict(item) for item in found], "rows": [asdict(item) for item in joined]})
    except OSError as error:
        raise UserError(f"cannot write the summary to {output.parent}: {error.strerror}") from None
    _show(table)
