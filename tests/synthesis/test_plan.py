"""Identity of images: nothing but the caption, the replica, the attempt and the base seed decides."""

import hashlib

import pytest

from t2ipal.errors import UserError
from t2ipal.synthesis.plan import Caption, Sample, image_seed, shard_samples

CAPTIONS = [Caption(f"{index:016x}", f"text {index}", ("dog",), ("dog",)) for index in range(7)]


def everything(replicas: int, shard_size: int) -> list[Sample]:
    shards = -(-len(CAPTIONS) * replicas // shard_size)
    return [sample for shard in range(shards) for sample in shard_samples(CAPTIONS, replicas, shard_size, shard)]


def seeds(samples: list[Sample]) -> dict[str, int]:
    return {sample.key: sample.seed(0, 3) for sample in samples}


def test_every_image_is_in_exactly_one_shard_and_keys_are_distinct() -> None:
    samples = everything(replicas=3, shard_size=4)
    assert len(samples) == 21
    assert len({sample.key for sample in samples}) == 21


@pytest.mark.parametrize("shard_size", [1, 2, 5, 100])
def test_shard_size_changes_neither_order_nor_seeds(shard_size: int) -> None:
    assert list(seeds(everything(2, shard_size)).items()) == list(seeds(everything(2, 4)).items())


def test_more_replicas_only_append() -> None:
    few, many = everything(1, 4), everything(3, 4)
    assert many[: len(few)] == few
    assert shard_samples(CAPTIONS, 3, 4, 0) == shard_samples(CAPTIONS, 1, 4, 0)


def test_seed_is_the_documented_hash() -> None:
    expected = int(hashlib.sha256(b"00ff/2/1/9").hexdigest()[:16], 16) % 2**63
    assert image_seed("00ff", 2, 1, 9) == expected


def test_replica_attempt_and_base_seed_each_give_other_noise() -> None:
    drawn = {image_seed("a", replica, attempt, base) for replica in (0, 1) for attempt in (0, 1) for base in (0, 1)}
    assert len(drawn) == 8
    assert all(0 <= seed < 2**63 for seed in drawn)


def test_key_is_caption_and_three_digit_replica() -> None:
    assert Sample(CAPTIONS[1], 12).key == "0000000000000001-012"


@pytest.mark.parametrize("shard", [-1, 2])
def test_a_shard_outside_the_plan_is_refused(shard: int) -> None:
    with pytest.raises(UserError, match=f"shard {shard} does not exist: 7 images fill 2 shards"):
        shard_samples(CAPTIONS, 1, 4, shard)
