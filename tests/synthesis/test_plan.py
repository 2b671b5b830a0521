"""Identity of images: nothing but the caption, the replica, the attempt and the base seed decides."""

import hashlib

import pytest

from t2ipal.errors import UserError
from t2ipal.synthesis.plan import Caption, Sample, Shard, image_seed, shards

CAPTIONS = [Caption(f"{index:016x}", f"text {index}", ("dog",), ("dog",)) for index in range(7)]


def everything(replicas: int, size: int, captions: int = len(CAPTIONS)) -> list[Sample]:
    return [sample for shard in shards(captions, replicas, size) for sample in shard.samples(CAPTIONS)]


def seeds(samples: list[Sample]) -> dict[str, int]:
    return {sample.key: sample.seed(0, 3) for sample in samples}


def test_every_image_is_in_exactly_one_shard_and_keys_are_distinct() -> None:
    samples = everything(replicas=3, size=4)
    assert len(samples) == 21
    assert len({sample.key for sample in samples}) == 21


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_shard_size_changes_neither_order_nor_seeds(size: int) -> None:
    assert list(seeds(everything(2, size)).items()) == list(seeds(everything(2, 4)).items())


def test_more_replicas_only_add_shards() -> None:
    assert shards(7, 3, 4)[:2] == shards(7, 1, 4)
    assert [shard.name for shard in shards(7, 2, 4)] == ["00000", "00001-n3", "00000-r1", "00001-r1-n3"]


@pytest.mark.parametrize("captions", [4, 5, 7])
def test_more_captions_add_shards_and_change_no_full_one(captions: int) -> None:
    few = {shard.name: shard for shard in shards(captions, 2, 4)}
    many = {shard.name: shard for shard in shards(100, 2, 4)}
    assert all(many[name] == shard for name, shard in few.items() if shard.count == 4)
    assert all(name not in many for name, shard in few.items() if shard.count < 4)


@pytest.mark.parametrize("shard", shards(1003, 12, 10))
def test_a_shard_is_known_by_its_name(shard: Shard) -> None:
    assert Shard.of(shard.name, 10) == shard


@pytest.mark.parametrize(
    "name", ["", "0", "shard-00000", "00000-r0", "00000-n10", "00000-n11-r1", "000000", "00000-n3x"]
)
def test_a_name_of_no_shard_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"there is no shard '{name}'"):
        Shard.of(name, 10)


def test_seed_is_the_documented_hash() -> None:
    expected = int(hashlib.sha256(b"00ff/2/1/9").hexdigest()[:16], 16) % 2**63
    assert image_seed("00ff", 2, 1, 9) == expected


def test_replica_attempt_and_base_seed_each_give_other_noise() -> None:
    drawn = {image_seed("a", replica, attempt, base) for replica in (0, 1) for attempt in (0, 1) for base in (0, 1)}
    assert len(drawn) == 8
    assert all(0 <= seed < 2**63 for seed in drawn)


def test_key_is_caption_and_three_digit_replica() -> None:
    assert Sample(CAPTIONS[1], 12).key == "0000000000000001-012"


def test_a_shard_beyond_the_captions_is_refused() -> None:
    with pytest.raises(UserError, match="shard 00001 needs the captions 4 to 7, but there are 7"):
        Shard(0, 1, 4, 4).samples(CAPTIONS)
