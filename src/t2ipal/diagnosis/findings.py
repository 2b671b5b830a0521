"""A check looks at one thing and finds it fit or not: a verdict, one sentence, and what mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """``warn``: a run may work; ``fail``: it will not."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """What a check found. ``mend`` says what to do, where there is something to do."""

    verdict: Verdict
    sentence: str
    mend: str = ""


def ok(sentence: str) -> Finding:
    """All is well."""
    return Finding(Verdict.OK, sentence)


def warn(sentence: str, mend: str) -> Finding:
    """Something that may be meant so."""
    return Finding(Verdict.WARN, sentence, mend)


def fail(sentence: str, mend: str) -> Finding:
    """Something that a run would fail on."""
    return Finding(Verdict.FAIL, sentence, mend)


@dataclass(frozen=True)
class Check:
    """A thing to look at: ``name`` is its heading, ``look`` does it when it is asked."""

    name: str
    look: Callable[[], Finding]

    def run(self) -> Finding:
        """Look. What cannot be looked at is a warning, so that the other checks are still made."""
        try:
            return self.look()
        except Exception as error:  # whatever a check meets
            sentence = f"could not be looked at: {type(error).__name__}: {error}"
            return warn(sentence, "run `t2ipal --debug doctor` and report what it says")


def examine(checks: Iterable[Check]) -> list[tuple[str, Finding]]:
    """All checks' names and findings, in their order."""
    return [(check.name, check.run()) for check in checks]


def render(found: Sequence[tuple[str, Finding]]) -> str:
    """One line a finding, its mend below it, and a count at the end."""
    width = max((len(name) for name, _ in found), default=0)
    lines = []
    for name, finding in found:
        lines.append(f"{finding.verdict:<4}  {name:<{width}}  {finding.sentence}")
        if finding.mend:
            lines.append(f"{'':<4}  {'':<{width}}  -> {finding.mend}")
    counts = {verdict: sum(finding.verdict is verdict for _, finding in found) for verdict in Verdict}
    return "\n".join([*lines, ", ".join(f"{count} {verdict}" for verdict, count in counts.items())])


def failed(found: Iterable[tuple[str, Finding]]) -> bool:
    """Whether a run would fail."""
    return any(finding.verdict is Verdict.FAIL for _, finding in found)
