"""Progress of long work: a bar on a terminal, plain lines in a log; with throughput and time left."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

LINE_SECONDS = 10.0


class Progress:
    """Counts items; ``with Progress("drawing", 600, "images") as progress: progress.advance(50)``."""

    def __init__(self, what: str, total: int, unit: str, done: int = 0) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = self.first = done
        self.started = self.spoken = time.monotonic()
        terminal = sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=done, desc=what, unit=f" {unit}", file=sys.stderr) if terminal else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self.bar is not None:
            self.bar.close()

    def close(self) -> None:
        """End the bar, or say in a last line how far it came."""
        if self.bar is not None:
            self.bar.close()
        else:
            self._line()

    def extend(self, count: int) -> None:
        """Expect ``count`` more items."""
        self.total += count
        if self.bar is not None:
            self.bar.total = self.total

    def describe(self, what: str) -> None:
        """Say from now on that ``what`` is under way."""
        self.what = what
        if self.bar is not None:
            self.bar.set_description(what, refresh=False)

    def advance(self, count: int) -> None:
        """Record ``count`` more items as done."""
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        elif time.monotonic() - self.spoken >= LINE_SECONDS:
            self._line()

    def _line(self) -> None:
        self.spoken = time.monotonic()
        rate = (self.done - self.first) / max(self.spoken - self.started, 1e-9)
        left = (self.total - self.done) / rate if rate else float("inf")
        remaining = f", {left:.0f} s left" if self.done < self.total and rate else ""
        print(f"{self.what}: {self.done} of {self.total} {self.unit}, {rate:.1f}/s{remaining}", file=sys.stderr)
