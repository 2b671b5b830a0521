from __future__ import annotations

from pathlib import Path

import pytest

from t2ipal.reporting.times_section import times_section

HEAD = "s\th:m:s\tmax_rss\tmax_vms\n"


def _job(path: Path, *rows: str) -> Path:
    path.write_text(HEAD + "".join(f"{row}\n" for row in rows))
    return path


def test_jobs_of_a_stage_add_up(tmp_path: Path) -> None:
    paths = [_job(tmp_path / "a", "10.0\t0:00:10\t100.5\t1"), _job(tmp_path / "b", "30.0\t0:00:30\t50\t1")]
    section = times_section({"features": paths, "gap": []}, {"features": (80, "rows")})
    (line,) = section.content["lines"]
    assert (line.stage, line.jobs, line.seconds, line.longest, line.memory) == ("features", 2, 40.0, 30.0, 100.5)
    assert line.rate == pytest.approx(2.0)


def test_what_snakemake_could_not_measure_is_unknown(tmp_path: Path) -> None:
    (line,) = times_section({"gap": [_job(tmp_path / "a", "0.1\t0:00:00\tNA\t-")]}, {}).content["lines"]
    assert (line.memory, line.rate) == (None, None)


def test_files_that_are_gone_or_damaged_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"\xff\x00nonsense")
    section = times_section({"gap": [tmp_path / "none", tmp_path / "bad"]}, {})
    assert section.absent == "No measurement of a job's time was kept."
