from __future__ import annotations

import csv
import json

import pytest

from t2ipal.errors import UserError
from t2ipal.reporting.summary import write_summary


def test_json_csv_and_table_say_the_same(run, tmp_path, capsys):
    output = tmp_path / "out" / "summary.json"
    write_summary(run.config, output)
    summary = json.loads(output.read_text())
    assert set(summary["records"][0]) == {
        "benchmark", "method", "backbone", "seed", "metric", "value", "protocol", "fingerprint",
    }  # fmt: skip
    assert set(summary["rows"][0]) == {
        "benchmark", "method", "backbone", "metric", "mean", "sd", "seeds", "protocol", "trained_on",
    }  # fmt: skip
    with output.with_suffix(".csv").open(newline="") as handle:
        lines = list(csv.DictReader(handle))
    assert [float(line["value"]) for line in lines if line["statistic"] == "value"] == [
        record["value"] for record in summary["records"]
    ]
    assert [float(line["value"]) for line in lines if line["statistic"] == "sd"] == [
        row["sd"] for row in summary["rows"]
    ]
    assert capsys.readouterr().out == output.with_suffix(".txt").read_text()


def test_bytes_are_equal_on_every_run(run, tmp_path):
    for name in ("a", "b"):
        write_summary(run.config, tmp_path / name / "summary.json")
    for suffix in ("json", "csv", "txt"):
        first, second = ((tmp_path / name / f"summary.{suffix}").read_bytes() for name in ("a", "b"))
        assert first == second


def test_nothing_is_written_when_a_metrics_file_is_missing(run, tmp_path):
    run.metrics_path("oracle", 5).unlink()
    with pytest.raises(UserError, match="oracle"):
        write_summary(run.config, tmp_path / "out" / "summary.json")
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_one_sentence(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the summary"):
        write_summary(run.config, tmp_path / "file" / "summary.json")
