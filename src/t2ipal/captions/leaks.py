"""Images that are evaluated on, and whether a corpus holds captions of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa

from t2ipal.captions.corpora import Line, find
from t2ipal.captions.streams import BLOCK, as_text, elements, lines, opened
from t2ipal.errors import UserError
from t2ipal.settings import CorpusSettings

_ID = re.compile(
    r"(?:.*[/\\])?(?:COCO_[a-z]+\d+_)?(?:0*(?P<number>\d+?)|(?P<name>.+?))(?:\.0|\.(?:jpe?g|png|webp))?", re.IGNORECASE
)


def image_id(value: str) -> str:
    """An image id in its shortest form, from an id, a file name or a path.

    ``42``, ``42.0``, ``000000000042.jpg`` and ``val2014/COCO_val2014_000000000042.jpg`` are all ``42``.
    """
    found = _ID.fullmatch(value.strip())
    return (found["number"] or found["name"]) if found else value.strip()


def evaluation_ids(patterns: tuple[str, ...]) -> frozenset[str]:
    """The image ids in files: COCO's JSON (``images``), or lines that start with an id or a file name.

    Raises:
        UserError: a pattern stands for no file, or a file cannot be read or holds no image id.
    """
    ids: set[str] = set()
    for path in find(patterns, "evaluation_ids"):
        try:
            found = _ids(path)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise UserError(f"captions.corpus.evaluation_ids: cannot read {path} to its end ({error})") from None
        if not found:
            raise UserError(f"captions.corpus.evaluation_ids: {path} holds no image id; name COCO's JSON or a list")
        ids |= found
    return frozenset(ids)


def _ids(path: Path) -> set[str]:
    with opened(path) as (_, stream):
        is_json = stream.read(BLOCK).lstrip(b"\xef\xbb\xbf\r\n\t ").startswith(b"{")
    with opened(path) as (_, stream), as_text(stream, "utf-8") as text:
        if is_json:
            images = elements(text, "images")
            return {image_id(str(image["id"])) for image in images if isinstance(image, dict) and "id" in image}
        return {image_id(re.split(r"[\s,]", line.strip(), maxsplit=1)[0]) for line in lines(text) if not line.isspace()}


class LeakCheck:
    """Counts the captions of evaluation images in a corpus, and refuses it for them unless it is allowed."""

    def __init__(self, settings: CorpusSettings) -> None:
        """Read the ids.

        Raises:
            UserError: as `evaluation_ids`.
        """
        self._wanted, self._allowed = bool(settings.evaluation_ids), settings.allow_evaluation
        self._ids = evaluation_ids(settings.evaluation_ids)
        self._leaked: set[str] = set()
        self._captions = self._unknown = 0
        self._first = ""

    def see(self, line: Line) -> None:
        """Look at the image of a caption.

        Raises:
            UserError: the caption has no image id, so that nothing can be checked.
        """
        if not self._wanted:
            return
        if line.image_id is None:
            self._unknown += 1
            if not self._allowed:
                raise UserError(
                    f"captions.corpus.evaluation_ids cannot be checked: no image id at {line.place}; name "
                    f"captions.corpus.image_column (CSV, Parquet) or set captions.corpus.allow_evaluation: true"
                )
            return
        found = image_id(line.image_id)
        if found in self._ids:
            self._captions += 1
            self._leaked.add(found)
            self._first = self._first or f"image {found} at {line.place}"

    def judge(self) -> None:
        """Raise a UserError if the corpus held captions of evaluation images and that is not allowed."""
        if self._captions and not self._allowed:
            raise UserError(
                f"captions.corpus.files hold {self._captions} captions of {len(self._leaked)} evaluation images, first "
                f"{self._first}; use captions of training images (for COCO2014: captions_train2014.json), or set "
                f"captions.corpus.allow_evaluation: true"
            )

    def facts(self) -> dict[str, Any]:
        """Whether the check was made, against how many images, and what it found."""
        if not self._wanted:
            return {"checked": False}
        return {
            "checked": True,
            "evaluation_images": len(self._ids),
            "captions": self._captions,
            "images": len(self._leaked),
            "captions_without_id": self._unknown,
            "allowed": self._allowed,
        }
