"""Jobs that a killed run left in the queue of a SLURM cluster: they would go on beside those of a new run."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from t2ipal.errors import UserError

ASK_SECONDS = 60


def left_behind(prefix: str, directory: Path) -> dict[str, int]:
    """Your jobs in the queue that were submitted from ``directory``: how many of each name that begins with ``prefix``.

    All jobs of one run have one name. Empty where the queue cannot be asked.
    """
    query = ["squeue", "--me", "--noheader", "--array", "--format=%j|%Z"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=ASK_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    found: dict[str, int] = {}
    for name, _, place in (line.partition("|") for line in listed.splitlines()):
        if name.startswith(f"{prefix}_") and Path(place) == directory:
            found[name] = found.get(name, 0) + 1
    return found


def refuse_left_behind(prefix: str, directory: Path) -> None:
    """Refuse to start beside the jobs of a run that was killed.

    Raises:
        UserError: there are such jobs; names the command that cancels them.
    """
    found = left_behind(prefix, directory)
    if found:
        command = shlex.join(["scancel", f"--name={','.join(found)}"])
        raise UserError(
            f"{sum(found.values())} jobs of a run that was killed are still in the queue; cancel them with "
            f"`{command}`, or wait for them to end, and start again: what they have done is kept"
        )
