"""Finished shards: which ones are, and which ones begin with the images that another one asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from t2ipal.errors import UserError
from t2ipal.io import file_sha256, read_json
from t2ipal.synthesis.notices import say
from t2ipal.synthesis.plan import Shard


def manifest(shard: Path) -> dict[str, Any]:
    """The manifest beside a shard; empty if it is missing or damaged."""
    try:
        found = read_json(shard.with_suffix(".json"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def finished(shard: Path, settings_digest: str, count: int) -> bool:
    """True if ``shard`` holds ``count`` images of these settings and its bytes are those that its manifest vouches for.

    A shard whose bytes are not is announced.
    """
    facts = manifest(shard)
    if not shard.is_file() or (facts.get("settings_digest"), facts.get("count")) != (settings_digest, count):
        return False
    if facts.get("sha256") == file_sha256(shard):
        return True
    say(f"{shard} is damaged: its sha256 is not that of its manifest; drawing it again")
    return False


def donors(output: Path, shard: Shard, settings_digest: str) -> list[Path]:
    """The finished shards beside ``output`` of the same chunk and replica, the fullest first."""
    found: list[tuple[int, Path]] = []
    for path in output.parent.glob(f"shard-{shard.chunk:05d}*.tar"):
        try:
            other = Shard.of(path.stem.removeprefix("shard-"), shard.size)
        except UserError:
            continue
        same = (other.chunk, other.replica) == (shard.chunk, shard.replica) and other != shard
        if same and finished(path, settings_digest, other.count):
            found.append((other.count, path))
    return [path for _, path in sorted(found, reverse=True)]
