"""One-line notices of a job on standard error."""

from __future__ import annotations

import sys


def say(sentence: str) -> None:
    """Write one line at once: a log may be all that is left of a killed job."""
    print(f"t2ipal synthesis: {sentence}", file=sys.stderr, flush=True)
