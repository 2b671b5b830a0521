"""Checks, what they find, and how it is shown."""

from t2ipal.diagnosis.findings import Check, Finding, Verdict, examine, fail, failed, ok, render, warn


def stumble() -> Finding:
    raise OSError("the disk is gone")


CHECKS = [
    Check("python", lambda: ok("3.11")),
    Check("disk", lambda: warn("2 GB are free", "free some")),
    Check("partition", lambda: fail("there is no 'gpu'", "name another")),
]


def test_findings_are_lines_with_their_mend_below_and_a_count_at_the_end() -> None:
    assert render(examine(CHECKS)).splitlines() == [
        "ok    python     3.11",
        "warn  disk       2 GB are free",
        "                 -> free some",
        "fail  partition  there is no 'gpu'",
        "                 -> name another",
        "1 ok, 1 warn, 1 fail",
    ]


def test_only_what_a_run_would_fail_on_is_a_failure() -> None:
    assert failed(examine(CHECKS))
    assert not failed(examine(CHECKS[:2]))


def test_a_check_that_breaks_is_a_warning_and_the_others_are_made() -> None:
    found = examine([Check("disk", stumble), CHECKS[0]])
    assert [finding.verdict for _, finding in found] == [Verdict.WARN, Verdict.OK]
    assert "OSError: the disk is gone" in found[0][1].sentence
