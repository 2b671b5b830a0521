"""What SLURM's commands print, read; and profiles without a cluster. The cluster itself is in tests/slurm."""

from pathlib import Path

import pytest

from t2ipal.config import Config
from t2ipal.diagnosis.findings import Verdict, examine
from t2ipal.diagnosis.slurm import Partition, Slurm, checks

PROFILE = Path(__file__).resolve().parents[2] / "workflow" / "profiles" / "slurm"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("gpu*|up|1-00:00:00|64000|gpu:2", Partition("gpu", True, True, 1440, 64000, ("",))),
        ("a100|up|8:00:00|512000+|gpu:a100:4(S:0-1)", Partition("a100", False, True, 480, 512000, ("a100",))),
        ("mig|up|30:00|1|gpu:a100_3g.20gb:2,nvme:1", Partition("mig", False, True, 30, 1, ("a100_3g.20gb",))),
        ("cpu|drain|infinite|1000|(null)", Partition("cpu", False, False, None, 1000, ())),
    ],
)
def test_a_line_of_sinfo_is_a_partition(line: str, expected: Partition) -> None:
    assert Partition.of(line) == expected


def test_the_shipped_profile_is_filled_in_by_the_cluster_s_defaults() -> None:
    slurm = Slurm(PROFILE)
    assert slurm.profile["executor"] == "slurm"
    assert [slurm.wanted(key) for key in ("slurm_partition", "slurm_account", "gpu_type")] == ["", "", ""]
    assert int(slurm.wanted("max_runtime")) == 1440


def test_quotes_around_a_name_that_python_has_are_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("executor: slurm\ndefault-resources:\n  slurm_partition: \"'all'\"\n")
    assert Slurm(tmp_path).wanted("slurm_partition") == "all"


def test_without_slurm_every_check_is_made_and_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = dict(examine(checks(Config(results=str(tmp_path / "results")), tmp_path)))
    assert found["commands"].verdict is Verdict.FAIL
    assert found["profile"].sentence == f"{tmp_path}/config.yaml is no profile of SLURM"
    assert found["controller"].verdict is Verdict.FAIL
    assert found["results"].verdict is Verdict.OK
    assert all(finding.mend for finding in found.values() if finding.verdict is not Verdict.OK)
