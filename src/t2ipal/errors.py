"""Errors that a user can cause and mend."""

from __future__ import annotations


class UserError(Exception):
    """One clear sentence that names the key or file and the mend; the command line shows it without traceback."""
