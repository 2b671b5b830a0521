from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
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
    assert found.local.dtype == found.global_.dtype == np.float16
    assert np.array_equal(found.local[:3], _rows(0, 3).local.astype(np.float16))
    assert np.array_equal(found.global_[5], _rows(5, 1).global_[0].astype(np.float16))
    assert found.length.tolist() == [2] * 6


def _two_parts(directory: Path) -> list[Path]:
    """Seven and three rows, in row groups of three, two, two and three."""
    directory.mkdir()
    store.write(directory / "a.parquet", [_rows(0, 3), _rows(3, 2), _rows(5, 2)], {})
    store.write(directory / "b.parquet", [_rows(7, 3)], {})
    return [directory / "a.parquet", directory / "b.parquet"]


def _mappings(directory: Path) -> list[str]:
    """Lines of the files in ``directory`` that this process has mapped."""
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if f" {directory}/" in line]


@pytest.mark.parametrize("block_bytes", [1, 40, 2**20])
def test_large_features_are_the_same_bytes_mapped_from_a_file_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    parts = _two_parts(tmp_path / "features")
    expected = store.read(parts)
    assert _mappings(tmp_path) == []
    monkeypatch.setattr(store, "RAM_LIMIT", expected.local.nbytes - 1)
    monkeypatch.setattr(store, "BLOCK_BYTES", block_bytes)
    found = store.read(parts)
    assert np.array_equal(found.local, expected.local)
    assert np.array_equal(found.global_, expected.global_)
    assert (found.keys, found.labels, found.unknown) == (expected.keys, expected.labels, expected.unknown)
    (mapping,) = _mappings(tmp_path / "features")
    assert mapping.endswith("(deleted)")
    assert sorted((tmp_path / "features").iterdir()) == parts


def test_the_file_is_made_in_the_scratch_directory_and_freed_with_the_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = _two_parts(tmp_path / "features")
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(store, "RAM_LIMIT", 0)
    found = store.read(parts, tmp_path / "scratch")
    assert len(_mappings(tmp_path / "scratch")) == 1
    assert _mappings(tmp_path / "features") == []
    del found
    assert _mappings(tmp_path / "scratch") == []


def test_features_at_the_limit_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = _two_parts(tmp_path / "features")
    monkeypatch.setattr(store, "RAM_LIMIT", 10 * 2 * 4 * 2)
    found = store.read(parts)
    assert found.local.nbytes == store.RAM_LIMIT
    assert _mappings(tmp_path) == []


@pytest.mark.parametrize("known_before", [True, False])
def test_a_full_disk_is_an_error_that_names_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known_before: bool
) -> None:
    parts = _two_parts(tmp_path / "features")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(store, "RAM_LIMIT", 0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if known_before:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        with pytest.raises(UserError, match=rf"cannot keep .* in {scratch}: .*; make room there"):
            store.read(parts, scratch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(scratch.iterdir()) == []


def test_a_missing_scratch_directory_is_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = _two_parts(tmp_path / "features")
    monkeypatch.setattr(store, "RAM_LIMIT", 0)
    with pytest.raises(UserError, match=str(tmp_path / "none")):
        store.read(parts, tmp_path / "none")


READ = """
import sys, threading
from pathlib import Path
from t2ipal.features import store

def anonymous():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024

def watch():
    while not done.wait(0.002):
        seen.append(anonymous())

store.RAM_LIMIT = 0
done, before, seen = threading.Event(), anonymous(), []
watcher = threading.Thread(target=watch)
watcher.start()
features = store.read([Path(part) for part in sys.argv[1:]])
done.set()
watcher.join()
print(features.local.nbytes, max([*seen, anonymous()]) - before)
"""


def test_reading_needs_far_less_memory_than_the_features(tmp_path: Path) -> None:
    rows_of_group = 1000
    bits = np.random.default_rng(0).integers(0, 2**14, (rows_of_group, 49, 1024), dtype=np.uint16)
    rows = store.Rows(
        keys=["k"] * rows_of_group,
        labels=[["cat"]] * rows_of_group,
        unknown=[[]] * rows_of_group,
        global_=np.zeros((rows_of_group, 1024), np.float16),
        local=bits.view(np.float16),
        length=np.full(rows_of_group, 49, np.int16),
    )
    store.write(tmp_path / "a.parquet", [rows] * 2, {})
    reading = subprocess.run(
        [sys.executable, "-c", READ, tmp_path / "a.parquet"], check=True, capture_output=True, text=True
    )
    size, growth = map(int, reading.stdout.split())
    assert size == 2 * rows_of_group * 49 * 1024 * 2
    assert growth < size / 2


def test_facts_may_differ_between_parts_and_missing_images_are_gathered(tmp_path: Path) -> None:
    lost = [{"key": key, "file": f"{key}.jpg", "reason": "no such file"} for key in ("x", "y", "z")]
    paths = [tmp_path / name for name in "abc"]
    store.write(paths[0], [_rows(0, 3)], {}, lambda: {"missing": lost[:1], "seconds": 1.5})
    store.write(paths[1], [_rows(3, 2)], {})
    store.write(paths[2], [_rows(5, 1)], {}, lambda: {"missing": lost[1:]})
    found = store.read(paths)
    assert found.missing == lost
    assert found.meta == {"format": 1, "L": 2, "D": 4}
    assert json.loads(pq.read_metadata(paths[0]).metadata[b"t2ipal_facts"]) == {"missing": lost[:1], "seconds": 1.5}


def test_a_part_written_before_there_were_facts_is_read(tmp_path: Path) -> None:
    store.write(tmp_path / "a.parquet", [_rows(0, 3)], {"source": "x"})
    table = pq.read_table(tmp_path / "a.parquet")
    metadata = {b"t2ipal": json.dumps({"source": "x", "format": 1, "L": 2, "D": 4}).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "old.parquet")
    found = store.read([tmp_path / "old.parquet", tmp_path / "a.parquet"])
    assert found.keys == ["k0", "k1", "k2"] * 2 and found.missing == []


def test_facts_are_asked_for_after_the_last_batch(tmp_path: Path) -> None:
    made: list[int] = []

    def batches() -> Iterator[store.Rows]:
        for number in range(3):
            made.append(number)
            yield _rows(number, 1)

    store.write(tmp_path / "a.parquet", batches(), {}, lambda: {"missing": [{"key": str(made)}]})
    assert store.read([tmp_path / "a.parquet"]).missing == [{"key": "[0, 1, 2]"}]


def test_a_part_may_have_no_row(tmp_path: Path) -> None:
    nothing = store.Rows([], [], [], np.empty((0, 4)), np.empty((0, 2, 4)), np.empty(0, np.int16))
    assert store.write(tmp_path / "a.parquet", [nothing], {}) == 0
    store.write(tmp_path / "b.parquet", [_rows(0, 2)], {})
    assert store.read([tmp_path / "a.parquet"]).local.shape == (0, 2, 4)
    assert store.read([tmp_path / "a.parquet", tmp_path / "b.parquet"]).keys == ["k0", "k1"]


def test_the_next_batches_are_made_while_one_is_written_but_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_batch, go, made, written = store._record_batch, threading.Event(), [], []

    def slow(rows: store.Rows) -> pa.RecordBatch:
        assert threading.current_thread() is not threading.main_thread()
        assert go.wait(300)
        written.append(rows.keys[0])
        return record_batch(rows)

    def batches() -> Iterator[store.Rows]:
        for number in range(20):
            assert len(made) - len(written) <= 4
            if number == 3:
                assert written == []
                go.set()
            made.append(number)
            yield _rows(number, 1)

    monkeypatch.setattr(store, "_record_batch", slow)
    assert store.write(tmp_path / "a.parquet", batches(), {}) == 20
    assert store.read([tmp_path / "a.parquet"]).keys == written == [f"k{number}" for number in range(20)]


def test_an_error_of_the_writer_ends_the_work_at_once_and_leaves_no_file(tmp_path: Path) -> None:
    made: list[int] = []

    def batches() -> Iterator[store.Rows]:
        for number in range(1000):
            made.append(number)
            yield _rows(number, 1) if number != 2 else replace(_rows(number, 1), length=np.zeros(9, np.int16))

    with pytest.raises(ValueError, match="length"):
        store.write(tmp_path / "a.parquet", batches(), {})
    assert len(made) < 10
    assert list(tmp_path.iterdir()) == []


def test_schema_is_the_contracts(tmp_path: Path) -> None:
    store.write(tmp_path / "a.parquet", [_rows(0, 3)], {})
    schema = pq.read_schema(tmp_path / "a.parquet")
    assert str(schema.field("global").type).startswith("fixed_size_list<") and "halffloat" in str(
        schema.field("global").type
    )
    assert schema.field("local").type.list_size == 8


def test_each_batch_is_a_row_group_and_features_have_no_dictionary(tmp_path: Path) -> None:
    store.write(tmp_path / "a.parquet", [_rows(0, 3), _rows(3, 2)], {})
    meta = pq.read_metadata(tmp_path / "a.parquet")
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [3, 2]
    columns = [meta.row_group(0).column(i) for i in range(meta.num_columns)]
    features = [column for column in columns if column.path_in_schema.split(".")[0] in ("global", "local")]
    assert len(features) == 2
    assert all("BYTE_STREAM_SPLIT" in column.encodings for column in features)
    assert not any(column.has_dictionary_page for column in features)


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
