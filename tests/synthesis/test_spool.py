"""Images that wait on a node's own disk: the shard is the same, and little is lost with the node."""

from pathlib import Path

import numpy as np
import pytest

from t2ipal.errors import UserError
from t2ipal.synthesis.encoding import Encoded, encode
from t2ipal.synthesis.plan import Caption, Sample
from t2ipal.synthesis.shard import Recipe, ShardWriter
from t2ipal.synthesis.spool import Spool

BATCH = 2
SAMPLES = [Sample(Caption(f"{index:016x}", f"text {index}", ("dog",), ("dog",)), 0) for index in range(8)]


def batch(first: int) -> list[Encoded]:
    pictures = [np.random.default_rng(index).integers(0, 256, (8, 8, 3), np.uint8) for index in (first, first + 1)]
    return [Encoded(encode(picture, "png"), 0, ()) for picture in pictures]


def opened(output: Path, scratch: Path | None) -> ShardWriter:
    return ShardWriter(output, SAMPLES, Recipe("0123456789abcdef", 7, "png"), BATCH, (), scratch)


def complete(output: Path, scratch: Path | None) -> bytes:
    with opened(output, scratch) as writer:
        for first in range(len(writer.records), len(SAMPLES), BATCH):
            writer.append(batch(first))
        writer.finish({})
    return output.read_bytes()


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def test_a_shard_by_way_of_a_nodes_own_disk_has_the_same_bytes(tmp_path: Path, scratch: Path) -> None:
    assert complete(tmp_path / "a" / "shard.tar", scratch) == complete(tmp_path / "b" / "shard.tar", None)
    assert not list(scratch.iterdir())


def test_a_job_that_is_stopped_brings_its_images_along(tmp_path: Path, scratch: Path) -> None:
    output = tmp_path / "shard.tar"
    with opened(output, scratch) as writer:
        writer.append(batch(0))
        assert writer.part.stat().st_size == 0
    assert writer.part.stat().st_size > 0
    with opened(output, scratch) as writer:
        assert len(writer.records) == BATCH
    assert complete(output, scratch) == complete(tmp_path / "undisturbed.tar", None)


def test_a_full_spool_is_drained_so_that_a_dead_node_loses_no_more(tmp_path: Path, scratch: Path) -> None:
    writer = opened(tmp_path / "shard.tar", scratch)
    assert writer._spool is not None
    writer._spool.limit = 1
    writer.append(batch(0))
    assert writer.part.stat().st_size > 0 and writer._spool.size == 0
    writer._spool.limit = 2**20
    writer.append(batch(2))
    size = writer.part.stat().st_size
    writer._handle.close()  # the node is off: nothing is settled
    with opened(tmp_path / "shard.tar", scratch) as after:
        assert len(after.records) == BATCH
        assert after.part.stat().st_size == size


def test_a_directory_that_the_node_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent' on .* \(config key 'scratch'\): No such file"):
        Spool(tmp_path / "absent")
