"""Images on a disk of the node's own, until there are enough of them for one large write to the shared file system."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from t2ipal.errors import UserError

# What a node that dies takes with it at the most.
LIMIT = 64 * 2**20
_PIECE = 8 * 2**20


class Spool:
    """A file without a name, so that the kernel removes it however the process ends."""

    def __init__(self, directory: Path, limit: int = LIMIT) -> None:
        """Open it in ``directory``.

        Raises:
            UserError: there is no such directory on this node, or nothing can be written to it.
        """
        self.limit, self.size = limit, 0
        try:
            self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115
        except OSError as error:
            raise UserError(
                f"cannot write to '{directory}' on {os.uname().nodename} (config key 'scratch'): {error.strerror}; "
                "name a directory that each node has, or none"
            ) from None

    @property
    def full(self) -> bool:
        """Whether it is time to drain it."""
        return self.size >= self.limit

    def write(self, data: bytes) -> None:
        """Append ``data``."""
        self._file.write(data)
        self.size += len(data)

    def drain(self) -> Iterator[bytes]:
        """All of it, in pieces; empty when the last one is taken."""
        self._file.seek(0)
        while piece := self._file.read(_PIECE):
            yield piece
        self._file.seek(0)
        self._file.truncate()
        self.size = 0

    def close(self) -> None:
        """Forget it."""
        self._file.close()
