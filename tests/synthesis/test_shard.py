"""The resumable shard writer, with pictures that need no model."""

import fcntl
import json
import resource
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from t2ipal.errors import UserError
from t2ipal.io import file_sha256
from t2ipal.synthesis.encoding import Encoded, encode
from t2ipal.synthesis.plan import Caption, Sample
from t2ipal.synthesis.shard import Recipe, ShardWriter

BATCH = 3
RECIPE = Recipe("0123456789abcdef", 7, "png")
SAMPLES = [Sample(Caption(f"{index:016x}", f"text {index}", ("dog",), ("dog",)), 0) for index in range(11)]


def picture(sample: Sample) -> np.ndarray:
    rng = np.random.default_rng(sample.seed(0, RECIPE.base_seed))
    return rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)


def drawn(sample: Sample, image_format: str = "png") -> Encoded:
    return Encoded(encode(picture(sample), image_format), 0, ())


def opened(output: Path, samples: list[Sample] = SAMPLES, recipe: Recipe = RECIPE) -> ShardWriter:
    return ShardWriter(output, samples, recipe, BATCH)


def go_on(writer: ShardWriter, batches: int = 100) -> int:
    """Append up to ``batches`` batches; returns the number of images drawn."""
    start = len(writer.records)
    for first in list(range(start, len(SAMPLES), BATCH))[:batches]:
        writer.append([drawn(sample) for sample in writer.samples[first : first + BATCH]])
    return len(writer.records) - start


def complete(output: Path) -> int:
    with opened(output) as writer:
        count = go_on(writer)
        writer.finish({"shard": 0})
    return count


@pytest.fixture
def undisturbed(tmp_path: Path) -> bytes:
    output = tmp_path / "undisturbed" / "shard.tar"
    complete(output)
    return output.read_bytes()


def test_a_finished_shard_is_a_tar_of_samples_with_a_manifest_and_nothing_else(tmp_path: Path) -> None:
    output = tmp_path / "new" / "shard-00000.tar"
    complete(output)
    with tarfile.open(output) as tar:
        names = tar.getnames()
        record = json.load(tar.extractfile(f"{SAMPLES[0].key}.json"))
        text = tar.extractfile(f"{SAMPLES[0].key}.txt").read()
    assert names == [f"{sample.key}.{kind}" for sample in SAMPLES for kind in ("png", "txt", "json")]
    assert text == b"text 0"
    assert {key: record[key] for key in ("labels", "requested", "replica", "attempt", "seed", "failed")} == {
        "labels": ["dog"],
        "requested": ["dog"],
        "replica": 0,
        "attempt": 0,
        "seed": SAMPLES[0].seed(0, 7),
        "failed": False,
    }
    manifest = json.loads(output.with_suffix(".json").read_text())
    assert manifest == {"shard": 0, "format": 1, "count": 11, "sha256": file_sha256(output)}
    assert sorted(path.name for path in output.parent.iterdir()) == ["shard-00000.json", "shard-00000.tar"]


@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_images_are_stored_without_loss(tmp_path: Path, image_format: str) -> None:
    from PIL import Image

    recipe, output = Recipe("0", 7, image_format), tmp_path / "s.tar"
    with ShardWriter(output, SAMPLES[:1], recipe, BATCH) as writer:
        writer.append([drawn(SAMPLES[0], image_format)])
        writer.finish({})
    with tarfile.open(output) as tar:
        image = np.asarray(Image.open(tar.extractfile(f"{SAMPLES[0].key}.{image_format}")))
    assert (image == picture(SAMPLES[0])).all()


@pytest.mark.parametrize("batches", [0, 1, 2, 3, 4])
def test_an_interrupted_shard_keeps_its_batches_and_ends_with_the_same_bytes(
    tmp_path: Path, undisturbed: bytes, batches: int
) -> None:
    output = tmp_path / "shard.tar"
    with opened(output) as writer:
        kept = go_on(writer, batches)
    assert not output.exists()
    assert complete(output) == len(SAMPLES) - kept
    assert output.read_bytes() == undisturbed


def test_a_tail_torn_anywhere_ends_with_the_same_bytes(tmp_path: Path, undisturbed: bytes) -> None:
    source, output = tmp_path / "source.tar", tmp_path / "shard.tar"
    with opened(source) as writer:
        sizes = [0]
        while go_on(writer, 1):
            sizes.append(writer.part.stat().st_size)
    part = writer.part.read_bytes()
    rng = np.random.default_rng(0)
    for length in [*sizes, *(int(x) for x in rng.integers(0, len(part), 30))]:
        shutil.copy(writer.label, tmp_path / "shard.tar.part.json")
        (tmp_path / "shard.tar.part").write_bytes(part[:length])
        whole_batches = sum(length >= size for size in sizes) - 1
        assert complete(output) == max(0, len(SAMPLES) - whole_batches * BATCH), length
        assert output.read_bytes() == undisturbed


@pytest.mark.parametrize("spot", [0.0, 0.3, 0.6, 0.999])
def test_a_tail_of_zeros_or_flipped_bits_is_drawn_again(tmp_path: Path, undisturbed: bytes, spot: float) -> None:
    # After a power cut a file may have its length but not its content.
    output = tmp_path / "shard.tar"
    with opened(output) as writer:
        go_on(writer)
    part, label = writer.part.read_bytes(), writer.label.read_bytes()
    start = int(spot * len(part))
    flipped = bytes([part[start] ^ 0x10])
    for damaged in (part[:start] + bytes(len(part) - start), part[:start] + flipped + part[start + 1 :]):
        writer.label.write_bytes(label)
        writer.part.write_bytes(damaged)
        assert complete(output) > 0 or damaged == part
        assert output.read_bytes() == undisturbed


def test_a_part_of_other_settings_is_discarded_with_a_line(
    tmp_path: Path, undisturbed: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "shard.tar"
    with opened(output, recipe=Recipe("fedcba9876543210", 8, "png")) as writer:
        go_on(writer, 2)
    assert complete(output) == len(SAMPLES)
    assert "discarded" in capsys.readouterr().err
    assert output.read_bytes() == undisturbed


def test_a_part_of_other_captions_is_discarded(tmp_path: Path, undisturbed: bytes) -> None:
    output = tmp_path / "shard.tar"
    with opened(output, samples=SAMPLES[::-1]) as writer:
        go_on(writer, 2)
    assert complete(output) == len(SAMPLES)
    assert output.read_bytes() == undisturbed


@pytest.mark.parametrize("change", ["text", "labels"])
def test_a_sample_whose_text_or_labels_changed_is_drawn_again(tmp_path: Path, change: str) -> None:
    output = tmp_path / "shard.tar"
    other = list(SAMPLES)
    caption = SAMPLES[4].caption
    changes = {"text": "new"} if change == "text" else {"labels": ("cat",)}
    other[4] = Sample(Caption(**{**vars(caption), **changes}), 0)
    with opened(output) as writer:
        go_on(writer, 3)
    with opened(output, samples=other) as writer:
        assert len(writer.records) == BATCH


@pytest.mark.parametrize("content", [b"", b"not a tar", bytes(4096), b"x" * 200_000])
def test_a_part_that_is_no_archive_is_drawn_anew(tmp_path: Path, undisturbed: bytes, content: bytes) -> None:
    output = tmp_path / "shard.tar"
    with opened(output) as writer:
        writer.part.write_bytes(content)
    assert complete(output) == len(SAMPLES)
    assert output.read_bytes() == undisturbed


def test_a_part_without_its_label_is_discarded(tmp_path: Path, undisturbed: bytes) -> None:
    output = tmp_path / "shard.tar"
    with opened(output) as writer:
        go_on(writer, 2)
    writer.label.unlink()
    assert complete(output) == len(SAMPLES)
    assert output.read_bytes() == undisturbed


def test_a_shard_killed_before_its_manifest_draws_nothing_again(
    tmp_path: Path, undisturbed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "shard.tar"
    output.with_suffix(".json").write_text("{}")  # of an earlier shard: it must not outlive that one

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, opened(output) as writer:
        go_on(writer)
        patch.setattr("t2ipal.synthesis.shard.write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            writer.finish({})
    assert output.exists()
    assert not output.with_suffix(".json").exists()
    assert complete(output) == 0
    assert output.read_bytes() == undisturbed


def test_two_writers_of_one_shard_are_refused(tmp_path: Path) -> None:
    output = tmp_path / "shard.tar"
    with opened(output) as writer:
        go_on(writer, 1)
        with pytest.raises(UserError, match="another process is drawing"):
            opened(output)
    with opened(output) as writer:
        assert len(writer.records) == BATCH


def test_a_file_system_without_locks_is_written_to_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unsupported(*args: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    assert complete(tmp_path / "shard.tar") == len(SAMPLES)
    assert "cannot be locked" in capsys.readouterr().err


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the kernel refuse to write beyond ``size`` bytes of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_space_is_a_sentence_and_loses_no_whole_batch(tmp_path: Path, undisturbed: bytes) -> None:
    output = tmp_path / "shard.tar"
    with opened(output) as writer:
        go_on(writer, 1)
        room = writer.part.stat().st_size + 1000
        with largest_file(room), pytest.raises(UserError, match=r"no space left to write .*shard\.tar\.part"):
            go_on(writer)
    assert complete(output) == len(SAMPLES) - BATCH
    assert output.read_bytes() == undisturbed


def test_a_directory_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*shard\.tar\.part: Not a directory"):
        opened(tmp_path / "file" / "below" / "shard.tar")


def test_what_a_killed_writer_of_small_files_left_is_swept(tmp_path: Path, undisturbed: bytes) -> None:
    output = tmp_path / "shard.tar"
    left = [tmp_path / f".shard.{end}.4711.part" for end in ("tar.part.json", "json")]
    other = tmp_path / ".shard2.json.4711.part"
    for path in (*left, other):
        path.write_text("{")
    complete(output)
    assert not any(path.exists() for path in left)
    assert other.exists()
    assert output.read_bytes() == undisturbed
