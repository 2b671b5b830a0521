"""The captions that are drawn, read from ``captions.parquet``."""

from __future__ import annotations

from pathlib import Path

from t2ipal.errors import UserError
from t2ipal.synthesis.plan import Caption

COLUMNS = ("caption_id", "text", "labels", "requested")


def read_captions(path: Path) -> list[Caption]:
    """All captions, in file order.

    Raises:
        UserError: the file is missing, is not Parquet, lacks a column, is empty, or repeats a caption.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        present = pq.read_schema(path).names
        lacking = [column for column in COLUMNS if column not in present]
        if lacking:
            raise UserError(f"captions file {path} lacks the column '{lacking[0]}'; draw the captions anew")
        table = pq.read_table(path, columns=list(COLUMNS))
    except FileNotFoundError:
        raise UserError(f"captions file {path} does not exist; run the captions stage first") from None
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"cannot read captions from {path}: {str(error).splitlines()[0]}") from error
    captions = [
        Caption(row["caption_id"], row["text"], tuple(row["labels"]), tuple(row["requested"]))
        for row in table.to_pylist()
    ]
    if not captions:
        raise UserError(f"captions file {path} holds no caption; draw the captions anew")
    if len({caption.caption_id for caption in captions}) != len(captions):
        raise UserError(f"captions file {path} repeats a caption_id; draw the captions anew")
    return captions
