"""Requests to language models, and the SQLite file that keeps every answer for reruns."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from t2ipal.errors import UserError
from t2ipal.io import canonical_json

# "T2IA", so that a SQLite file of something else is told apart.
APPLICATION = 0x54324941
VERSION = 1
BUSY_SECONDS = 60.0

_TABLE = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, request TEXT NOT NULL, text TEXT NOT NULL, finished INTEGER NOT NULL, asked_at TEXT NOT NULL
)"""


@dataclass(frozen=True)
class Request:
    """Everything that an answer depends on; ``model`` is the identity of the model, not the way to it."""

    model: str
    system: str
    prompt: str
    temperature: float
    top_p: float
    max_tokens: int
    seed: int

    @cached_property
    def text(self) -> str:
        """The request as canonical JSON."""
        return canonical_json(asdict(self))

    @cached_property
    def key(self) -> str:
        """Hexadecimal SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Answer:
    """What a model wrote; ``finished`` is False where the limit of tokens cut it off."""

    text: str
    finished: bool


class Answers:
    """The cache: one row per request, written at once and never changed. Several processes may share the file."""

    def __init__(self, path: Path) -> None:
        """Open or make the file and its directory.

        Raises:
            UserError: the file is damaged, is none of ours, or cannot be made or written to; names it.
        """
        self.path = path
        with self._told():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Autocommit: an answer is on file when ``keep`` returns, whatever happens to the process then.
            self.connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
            self._prepare()

    def find(self, request: Request) -> Answer | None:
        """The answer that is on file.

        Raises:
            UserError: the file cannot be read.
        """
        with self._told():
            row = self.connection.execute("SELECT text, finished FROM answers WHERE key = ?", [request.key]).fetchone()
        return None if row is None else Answer(row[0], bool(row[1]))

    def keep(self, request: Request, answer: Answer) -> None:
        """Write an answer; the first one to a request stays.

        Raises:
            UserError: the file cannot be written to.
        """
        with self._told():
            self.connection.execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, datetime('now'))",
                [request.key, request.text, answer.text, answer.finished],
            )

    def __len__(self) -> int:
        with self._told():
            return int(self.connection.execute("SELECT count(*) FROM answers").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def _prepare(self) -> None:
        # Taken before the first look, so that of two processes one makes the table and the other finds it.
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            application, version, tables = (
                int(self.connection.execute(query).fetchone()[0])
                for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
            )
            if (application, version) != (APPLICATION, VERSION) and (application or version or tables):
                raise _unfit(self.path, "it is a SQLite file of something else")
            self.connection.execute(_TABLE)
            self.connection.execute(f"PRAGMA application_id = {APPLICATION}")
            self.connection.execute(f"PRAGMA user_version = {VERSION}")
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")
        # Readers and the one writer do not wait for each other. With NORMAL a commit outlives the process at once.
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = NORMAL")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tell in one sentence what is wrong with the file."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                reason = f"another process has held it for {BUSY_SECONDS:.0f} seconds; wait for that one to end"
                raise UserError(f"captions.llm.cache {self.path}: {reason}, or set another file") from None
            raise UserError(
                f"captions.llm.cache {self.path} cannot be used: {error}; make the place writable or set another file"
            ) from None
        except sqlite3.DatabaseError as error:
            raise _unfit(self.path, str(error)) from None
        except OSError as error:
            raise UserError(
                f"captions.llm.cache {self.path} cannot be made: {error.strerror}; set another file"
            ) from None


def _unfit(path: Path, reason: str) -> UserError:
    return UserError(
        f"captions.llm.cache {path} is no cache of answers, or is damaged ({reason}); "
        f"move it away, or set captions.llm.cache to another file"
    )
