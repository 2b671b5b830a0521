"""Reading WebDataset shards: samples of an image, its caption and its labels, out of untrusted tar files."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from t2ipal.errors import UserError
from t2ipal.io import file_sha256, read_json

IMAGE_FORMATS = ("PNG", "WEBP")
# Far above what the synthesis stage writes; keeps a damaged or hostile shard from filling the memory.
LARGEST_MEMBER = 64 << 20


@dataclass(frozen=True)
class Sample:
    """A synthetic image, still encoded, with the caption it was drawn for and the labels mined from that."""

    key: str
    caption: str
    labels: tuple[str, ...]
    encoded: bytes

    def image(self) -> Image.Image:
        """The decoded image.

        Raises:
            UserError: it is neither PNG nor WebP, or damaged.
        """
        try:
            image = Image.open(io.BytesIO(self.encoded), formats=IMAGE_FORMATS)
            image.load()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(f"synthetic image {self.key} is damaged ({error}); delete its shard and rerun") from None
        return image


def _check(member: tarfile.TarInfo) -> None:
    name = member.name
    plain = member.isfile() and name.isprintable() and not name.startswith(".") and not {"/", "\\"} & set(name)
    if not plain:
        raise ValueError(f"member {name!r} is not a plain file at the top level")
    if member.size > LARGEST_MEMBER:
        raise ValueError(f"member {name!r} is larger than {LARGEST_MEMBER >> 20} MiB")


def _files(archive: tarfile.TarFile) -> Iterator[dict[str, Any]]:
    """Name and content of every member in order, in the form that webdataset groups."""
    for member in archive:
        _check(member)
        handle = archive.extractfile(member)
        content = handle.read() if handle else b""
        if len(content) != member.size:
            raise ValueError(f"member {member.name!r} is cut short")
        yield {"fname": member.name, "data": content, "__url__": archive.name}


def _sample(key: str, parts: dict[str, Any]) -> Sample | None:
    """The sample, or None if the synthesis stage recorded that its image failed."""
    document = json.loads(parts.get("json", b"null"))
    if not isinstance(document, dict):
        raise ValueError(f"sample {key!r} has no .json that describes it")
    if document.get("failed"):
        return None
    encoded = next((parts[name.lower()] for name in IMAGE_FORMATS if name.lower() in parts), None)
    if encoded is None or "txt" not in parts:
        raise ValueError(f"sample {key!r} lacks its image or caption")
    labels = document.get("labels")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"the .json of sample {key!r} has no list of labels")
    return Sample(key, parts["txt"].decode("utf-8", "replace").strip(), tuple(labels), encoded)


def check(path: Path) -> None:
    """Refuse a shard whose bytes are not those that its manifest, where there is one, vouches for.

    Raises:
        UserError: they differ, or the manifest is damaged.
    """
    manifest = path.with_suffix(".json")
    if not path.is_file() or not manifest.is_file():
        return
    try:
        vouched = read_json(manifest)["sha256"]
    except (OSError, ValueError, TypeError, KeyError):
        raise UserError(f"the manifest {manifest} is damaged; delete it and rerun") from None
    if vouched != file_sha256(path):
        raise UserError(f"shard {path} is damaged: its sha256 is not that of {manifest.name}; delete it and rerun")


def samples(path: Path) -> Iterator[Sample]:
    """The samples of a shard in order, without failed ones, one in memory at a time; nothing is unpacked to disk.

    Raises:
        UserError: the shard is missing or damaged, or holds anything but plain files at the top level.
    """
    from webdataset.tariterators import group_by_keys

    try:
        with tarfile.open(path, "r:") as archive:
            for parts in group_by_keys(_files(archive)):
                sample = _sample(parts["__key__"], parts)
                if sample is not None:
                    yield sample
    except (tarfile.TarError, OSError, ValueError) as error:
        raise UserError(f"shard {path} cannot be read ({error}); delete it and rerun") from None
