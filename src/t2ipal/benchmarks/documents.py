"""Text and JSON files of annotations, read whole; whatever is wrong with one is told in a sentence."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from t2ipal.errors import UserError


def read_text(path: Path) -> str:
    """UTF-8 text without its byte order mark.

    Raises:
        UserError: the file is missing, unreadable or not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read annotation file {path} ({error.strerror}); restore it or mend its path") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"annotation file {path} is not UTF-8 text (line {line}); save it as UTF-8") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, of which there must be one, without blanks around them; empty ones are left out.

    Raises:
        UserError: as ``read_text``, or there is no line.
    """
    lines = [line.strip() for line in read_text(path).splitlines()]
    found = [line for line in lines if line]
    if not found:
        raise UserError(f"annotation file {path} is empty; restore it")
    return found


def parse_json(text: str, without: Collection[str] = ()) -> Any:
    """JSON in which no object has a key twice; the keys ``without`` are left out, to save memory.

    Raises:
        ValueError: it is no such JSON.
    """

    def reduced(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"key '{next(key for key in keys if keys.count(key) > 1)}' is there twice in one object")
        return {key: value for key, value in pairs if key not in without}

    try:
        return json.loads(text, object_pairs_hook=reduced)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: Path, without: Collection[str] = ()) -> Any:
    """A JSON file, as ``parse_json`` reads it.

    Raises:
        UserError: as ``read_text``, or it is no such JSON.
    """
    text = read_text(path)
    try:
        return parse_json(text, without)
    except ValueError as error:
        raise UserError(f"annotation file {path} is damaged: it is no JSON ({error}); get it anew") from None
