"""A WebDataset shard that is written batch by batch and can be taken up again after any interruption.

The work lies in ``<name>.tar.part`` beside the shard, which no Snakemake rule declares and which so outlives a
killed job; ``<name>.tar.part.json`` says what it is part of. Whole batches are flushed to disk; what a torn tail
holds beyond them is cut and drawn again, so that the same images are denoised together whatever happened.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from t2ipal.errors import UserError
from t2ipal.io import canonical_json, publish, read_json, sweep, write_json
from t2ipal.synthesis.archive import Member, member, read_members, trailer
from t2ipal.synthesis.encoding import Encoded
from t2ipal.synthesis.notices import say
from t2ipal.synthesis.plan import Sample
from t2ipal.synthesis.spool import Spool

Record = dict[str, Any]
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORMAT = 1


@dataclass(frozen=True)
class Recipe:
    """What every sample of a shard has in common."""

    settings_digest: str
    base_seed: int
    image_format: str

    def _record(self, sample: Sample, attempt: int, faults: Sequence[str], failed: bool, image: bytes) -> Record:
        """The ``.json`` member of a sample: where the image comes from and what it shows; no times."""
        caption = sample.caption
        return {
            "key": sample.key,
            "caption_id": caption.caption_id,
            "labels": list(caption.labels),
            "requested": list(caption.requested),
            "replica": sample.replica,
            "attempt": attempt,
            "seed": sample.seed(attempt, self.base_seed),
            "faults": list(faults),
            "failed": failed,
            "settings_digest": self.settings_digest,
            "sha256": hashlib.sha256(image).hexdigest(),
        }

    def members(self, sample: Sample, drawn: Encoded) -> tuple[bytes, Record]:
        """The bytes of a sample in the archive, and its record."""
        record = self._record(sample, drawn.attempt, drawn.faults, drawn.failed, drawn.data)
        parts = zip(self._names(sample), (drawn.data, sample.caption.text.encode(), _dump(record)), strict=True)
        return b"".join(member(name, data) for name, data in parts), record

    def _names(self, sample: Sample) -> tuple[str, str, str]:
        return f"{sample.key}.{self.image_format}", f"{sample.key}.txt", f"{sample.key}.json"

    def recognise(self, sample: Sample, found: Sequence[Member]) -> Record | None:
        """The record of ``sample`` if ``found`` is that sample, whole and undamaged; else None."""
        if tuple(item.name for item in found) != self._names(sample):
            return None
        image, text, description = (item.data for item in found)
        try:
            record = json.loads(description)
            expected = self._record(sample, record["attempt"], record["faults"], record["failed"], image)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        return expected if description == _dump(expected) and text == sample.caption.text.encode() else None


def _dump(record: Record) -> bytes:
    return canonical_json(record).encode()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into a sentence.

    Raises:
        UserError: an ``OSError`` happened inside.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise UserError(
                f"no space left to write {path} ({error.strerror}); free some and run again: "
                "the images drawn so far are kept"
            ) from error
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def label_of(output: Path) -> Path:
    """The file that says what the work beside ``output`` is part of. A finished shard needs none."""
    return output.with_name(f"{output.name}.part.json")


class ShardWriter:
    """Writes the samples of one shard in order. Holds a lock on the work file until it is closed."""

    def __init__(
        self,
        output: Path,
        samples: Sequence[Sample],
        recipe: Recipe,
        batch_size: int,
        donors: Sequence[Path] = (),
        scratch: Path | None = None,
    ) -> None:
        """Open the work file, keep what is good in it, cut the rest; begin an empty one with what a donor has.

        ``donors`` are finished shards that begin with the same samples. With ``scratch``, a directory of this node,
        images are kept there and go into the work file in large writes, the last one when it is closed.

        Raises:
            UserError: a directory cannot be written to, or another process draws this shard.
        """
        self.output, self.samples, self.recipe, self.batch_size = output, samples, recipe, batch_size
        self.part = output.with_name(f"{output.name}.part")
        self.label = label_of(output)
        self.manifest = output.with_suffix(".json")
        self.records: list[Record] = []
        self._spool = Spool(scratch) if scratch is not None else None
        with writing(self.part):
            output.parent.mkdir(parents=True, exist_ok=True)
            self._handle = self._open()
            for path in (self.label, self.manifest):
                sweep(path)
            self._resume(donors)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._settle()
        finally:
            self._handle.close()
            if self._spool:
                self._spool.close()

    def _settle(self) -> None:
        """Bring what is in the spool into the work file."""
        if self._spool and self._spool.size:
            with writing(self.part):
                for piece in self._spool.drain():
                    self._write(piece)

    def _open(self) -> io.FileIO:
        if self.output.exists() and not self.manifest.exists() and not self.part.exists() and self.label.exists():
            # Killed between the renaming and the manifest.
            os.replace(self.output, self.part)
        handle = os.fdopen(os.open(self.part, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            raise UserError(f"another process is drawing {self.output}; wait for it or stop it") from None
        except OSError as error:
            say(f"{self.part} cannot be locked ({error.strerror}); make sure that no other job draws this shard")
        return handle

    def _resume(self, donors: Sequence[Path]) -> None:
        expected = {
            "format": FORMAT,
            "settings_digest": self.recipe.settings_digest,
            "batch_size": self.batch_size,
            "keys_sha256": hashlib.sha256("\n".join(sample.key for sample in self.samples).encode()).hexdigest(),
        }
        size = self._handle.seek(0, os.SEEK_END)
        end = 0
        if size and self._label() == expected:
            end = self._keep(size, "an earlier run")
        elif size:
            say(f"discarded {self.part}: it was written with other settings or captions")
        if end < size:
            self._handle.truncate(end)
            os.fsync(self._handle.fileno())
        self._handle.seek(end)
        if self._label() != expected:
            write_json(self.label, expected)
        for donor in donors:
            if not self.records:
                self._adopt(donor)

    def _adopt(self, donor: Path) -> None:
        """Begin with the whole batches that ``donor`` shares with this shard."""
        with donor.open("rb") as source:
            shutil.copyfileobj(source, self._handle)
        end = self._keep(self._handle.tell(), donor.name)
        self._handle.truncate(end)
        os.fsync(self._handle.fileno())
        self._handle.seek(end)

    def _label(self) -> Any:
        try:
            return read_json(self.label)
        except (OSError, ValueError):
            return None

    def _keep(self, size: int, origin: str) -> int:
        """Read the good samples up to the last whole batch; returns the offset behind them."""
        self._handle.seek(0)
        members = read_members(self._handle, size)
        ends = [0]
        for sample in self.samples:
            found = list(islice(members, 3))
            record = self.recipe.recognise(sample, found)
            if record is None:
                break
            self.records.append(record)
            ends.append(found[-1].end)
        whole = len(self.records)
        if whole < len(self.samples):
            whole -= whole % self.batch_size
        del self.records[whole:]
        say(f"{self.part.name}: kept {whole} of {len(self.samples)} images of {origin}")
        return ends[whole]

    def append(self, batch: Sequence[Encoded]) -> None:
        """Write the next samples, in order, and flush them to disk.

        Raises:
            UserError: the disk is full or refuses.
        """
        start = len(self.records)
        pieces = [
            self.recipe.members(sample, drawn)
            for sample, drawn in zip(self.samples[start : start + len(batch)], batch, strict=True)
        ]
        data = b"".join(data for data, _ in pieces)
        with writing(self.part):
            if self._spool:
                self._spool.write(data)
            else:
                self._write(data)
        self.records += [record for _, record in pieces]
        if self._spool and self._spool.full:
            self._settle()

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._handle.write(rest) :]
        os.fsync(self._handle.fileno())

    def finish(self, facts: dict[str, Any]) -> None:
        """Close the archive, rename it to its own name, and write the manifest (``facts`` and more) last.

        Raises:
            UserError: the disk is full or refuses.
        """
        self._settle()
        with writing(self.output):
            self._write(trailer(self._handle.tell()))
            self._handle.seek(0)
            sha256 = hashlib.file_digest(self._handle, "sha256").hexdigest()
            # A manifest of an earlier shard must not vouch for this one.
            self.manifest.unlink(missing_ok=True)
            publish(self.part, self.output)
            write_json(self.manifest, {**facts, "format": FORMAT, "count": len(self.records), "sha256": sha256})
            self.label.unlink(missing_ok=True)
