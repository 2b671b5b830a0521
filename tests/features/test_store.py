from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from t2ipal.errors import UserError
from t2ipal.features import store


def _rows(start: int, count: int) -> store.Rows:
    rng = np.random.default_rng(start)
    return store.Rows(
        keys=[f"k{start + i}" for i in range(count)],
        labels=[["cat"], ["cat", "dog"], []][:count],
        unknown=[[], [], ["dog"]][:count],
        global_=rng.normal(size=(count, 4)),
        local=rng.normal(size=(count, 2, 4)),
        length=np.full(count, 2, dtype=np.int16),
    )


def test_what_is_written_is_read_in_half_precision_and_order(tmp_path: Path) -> None:
    assert store.write(tmp_path / "a.parquet", [_rows(0, 3), _rows(3, 2)], {"source": "test"}) == 5
    store.write(tmp_path / "b.parquet", [_rows(5, 1)], {"source": "test"})
    found = store.read([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    assert found.keys == [f"k{i}" for i in range(6)]
    assert found.meta == {"source": "test", "format": 1, "L": 2, "D": 4}
    assert np.array_equal(found.local[:3], _rows(0, 3).local.astype(np.float16).astype(np.float32))
    assert np.array_equal(found.global_[5], _rows(5, 1).global_[0].astype(np.float16).astype(np.float32))


def test_schema_is_the_contracts(tmp_path: Path) -> None:
    store.write(tmp_path / "a.parquet", [_rows(0, 3)], {})
    schema = pq.read_schema(tmp_path / "a.parquet")
    assert str(schema.field("global").type).startswith("fixed_size_list<") and "halffloat" in str(
        schema.field("global").type
    )
    assert schema.field("local").type.list_size == 8


def test_targets_tell_present_absent_and_unknown(tmp_path: Path) -> None:
    store.write(tmp_path / "a.parquet", [_rows(0, 3)], {})
    targets = store.read([tmp_path / "a.parquet"]).targets(["dog", "cat"])
    assert targets.tolist() == [[0, 1], [1, 1], [-1, 0]]


def test_nothing_to_write_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no rows"):
        store.write(tmp_path / "a.parquet", [], {})
    assert list(tmp_path.iterdir()) == []


def test_a_failing_source_leaves_no_file(tmp_path: Path) -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield _rows(0, 3)
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError):
        store.write(tmp_path / "a.parquet", broken(), {})
    assert list(tmp_path.iterdir()) == []


def test_damaged_foreign_missing_and_mixed_files_are_named(tmp_path: Path) -> None:
    store.write(tmp_path / "a.parquet", [_rows(0, 3)], {"source": "x"})
    store.write(tmp_path / "b.parquet", [_rows(0, 3)], {"source": "y"})
    pq.write_table(pq.read_table(tmp_path / "a.parquet").replace_schema_metadata(None), tmp_path / "foreign.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    for paths, message in (
        (["cut.parquet"], "cannot read feature file .*cut"),
        (["none.parquet"], "cannot read feature file .*none"),
        (["foreign.parquet"], "not a t2ipal feature file"),
        (["a.parquet", "b.parquet"], "does not belong to the same features"),
    ):
        with pytest.raises(UserError, match=message):
            store.read([tmp_path / name for name in paths])
