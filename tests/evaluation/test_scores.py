from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from t2ipal.errors import UserError
from t2ipal.evaluation import scores


def test_scores_are_read_as_the_evaluation_wrote_them(tmp_path: Path, write_scores) -> None:
    targets, values = np.array([[1, 0], [-1, 1], [0, 0]]), np.arange(6.0).reshape(3, 2)
    found = scores.read(write_scores(tmp_path / "s.parquet", targets, values))
    assert found.keys == ["image-0", "image-1", "image-2"] and found.names == ["cat", "dog"]
    assert (found.targets == targets).all() and np.allclose(found.values, values)


@pytest.mark.parametrize("content", [None, b"", b"nonsense"])
def test_scores_that_cannot_be_read_are_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "s.parquet").write_bytes(content)
    with pytest.raises(UserError, match="cannot read scores"):
        scores.read(tmp_path / "s.parquet")


def test_a_foreign_table_is_one_sentence(tmp_path: Path) -> None:
    table = pa.table({"key": ["a"]}).replace_schema_metadata({b"t2ipal": json.dumps({"labels": ["cat"]}).encode()})
    pq.write_table(table, tmp_path / "s.parquet")
    with pytest.raises(UserError, match="cannot read scores"):
        scores.read(tmp_path / "s.parquet")
