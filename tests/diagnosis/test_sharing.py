"""Whether files are seen by all nodes."""

from pathlib import Path

from t2ipal.diagnosis.findings import Verdict, examine
from t2ipal.diagnosis.sharing import checks, file_system

MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
scratch@tcp:/fs /home/my\\040group lustre rw 0 0
"""


def test_the_innermost_mount_counts() -> None:
    assert file_system(Path("/tmp/x"), MOUNTS) == "ext4"
    assert file_system(Path("/home/me"), MOUNTS) == "nfs4"
    assert file_system(Path("/home/my group/results"), MOUNTS) == "lustre"
    assert file_system(Path("/homes"), MOUNTS) == "ext4"


def test_results_can_be_written_to_and_locked(tmp_path: Path) -> None:
    found = dict(examine(checks(tmp_path / "results")))
    assert found["results"].verdict is found["locks"].verdict is Verdict.OK


def test_results_in_the_place_of_a_file_are_a_failure(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    assert dict(examine(checks(tmp_path / "results")))["results"].verdict is Verdict.FAIL
