"""Errors that a user can cause and mend, and the end of work that is to be gone on with."""

from __future__ import annotations


class UserError(Exception):
    """One clear sentence that names the key or file and the mend; the command line shows it without traceback."""


class UnfinishedError(SystemExit):
    """The work ended early with its state saved; the same command goes on from there. Exits with EX_TEMPFAIL."""

    EX_TEMPFAIL = 75

    def __init__(self) -> None:
        super().__init__(self.EX_TEMPFAIL)
