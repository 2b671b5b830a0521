"""The extraction of files as a job runs it: what cannot be read, what is killed, and what memory it takes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from t2ipal.config import parse
from t2ipal.errors import UserError
from t2ipal.features import backbone as backbones
from t2ipal.features import stage, store
from t2ipal.features.backbone import Backbone
from t2ipal.features.extraction import Extraction, Item, Tolerance
from t2ipal.layout import Layout

PACK = f"local-dir:{Path(__file__).resolve().parents[2] / 'src/t2ipal/pack/models/clip'}"
PART = 60


def _settings(**changes: Any) -> dict[str, Any]:
    config = parse({"features": {"backbone": PACK, "batch_size": 4, "part_size": PART, **changes}})
    return {**Layout(config).features("test", 0).settings, "source": "test"}


@pytest.fixture(scope="module")
def pack() -> Backbone:
    return backbones.load(_settings())


def _jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (110, 130, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def _item(name: str, source: Path | bytes) -> Item:
    return Item(f"k{name}", name, [], [], source)


def _refusal(records: list[dict[str, str]]) -> UserError:
    return UserError(str(records))


def _extraction(pack: Backbone, workers: int, tolerated: float = 0) -> Extraction:
    return Extraction(pack, 4, workers, Tolerance(tolerated, _refusal), lambda: pack)


BROKEN = {
    "absent.jpg": "there is no such file",
    "cut.jpg": "truncated",
    "directory.jpg": "it is a directory",
    "empty.jpg": "the file is empty",
    "text.jpg": "it is no image",
    "zeros.jpg": "truncated",
}


def _broken(folder: Path) -> None:
    content = _jpeg(0)
    (folder / "cut.jpg").write_bytes(content[: len(content) // 2])
    (folder / "directory.jpg").mkdir()
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("<html>404</html>")
    (folder / "zeros.jpg").write_bytes(content[: len(content) // 2] + bytes(len(content) // 2))


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_recorded_in_order_and_change_no_others_features(
    tmp_path: Path, pack: Backbone, workers: int
) -> None:
    """One whole batch is unreadable, and others in part."""
    _broken(tmp_path)
    names = ["0.jpg", "absent.jpg", "1.jpg", "2.jpg", "cut.jpg", "directory.jpg", "empty.jpg", "text.jpg"]
    names += ["zeros.jpg", "3.jpg"]
    good = [name for name in names if name not in BROKEN]
    for name in good:
        (tmp_path / name).write_bytes(_jpeg(int(name[0])))
    items = (_item(name, tmp_path / name) for name in names)
    _extraction(pack, workers, tolerated=6).write(items, len(names), "images", tmp_path / "p", {})
    found = store.read([tmp_path / "p"])
    assert found.keys == [f"k{name}" for name in good]
    alone = [pack.encode_images([Image.open(tmp_path / name)]) for name in good]
    assert np.allclose(found.global_, np.concatenate([features[0] for features in alone]), atol=1e-3)
    assert np.allclose(found.local, np.concatenate([features[1] for features in alone]), atol=1e-3)
    assert [record["file"] for record in found.missing] == [name for name in names if name in BROKEN]
    for record in found.missing:
        assert record["key"] == f"k{record['file']}"
        assert BROKEN[record["file"]] in record["reason"]


def test_all_that_is_unreadable_is_named_before_a_part_is_refused(tmp_path: Path, pack: Backbone) -> None:
    _broken(tmp_path)
    items = (_item(name, tmp_path / name) for name in [*BROKEN, "late.jpg"])
    with pytest.raises(UserError) as caught:
        _extraction(pack, 0, tolerated=2).write(items, 7, "images", tmp_path / "p", {})
    assert all(name in str(caught.value) for name in [*BROKEN, "late.jpg"])
    assert not [path for path in tmp_path.iterdir() if path.name == "p" or path.name.startswith(".p")]


@pytest.mark.slow
def test_a_worker_that_is_killed_leaves_no_part(tmp_path: Path, pack: Backbone) -> None:
    def items() -> Iterator[Item]:
        for number in range(10_000):
            if number == 40:  # the model has encoded batches, and the writer has written some
                server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
                children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
                os.kill(int(children[-1]), signal.SIGKILL)  # one of an earlier test may still be ending
            yield _item(str(number), _jpeg(number % 3))

    with pytest.raises(UserError, match=r"ended from outside.*; set features\.workers or features\.batch_size lower"):
        _extraction(pack, 2).write(items(), 10_000, "images", tmp_path / "p", {})
    assert list(tmp_path.iterdir()) == []


def _index(folder: Path, count: int, different: int) -> Path:
    """A list of images in ``folder``, so many files of which are different ones."""
    images = folder / "images"
    images.mkdir(parents=True)
    for number in range(different):
        (images / f"{number}.jpg").write_bytes(_jpeg(number))
    described = {
        "root": str(images),
        "protocol": f"own/test-{count}",
        "label_names": [],
        "split": "test",
        "images": count,
    }
    nothing = pa.array([[]] * count, pa.list_(pa.string()))
    columns = {
        "key": [f"k{row}" for row in range(count)],
        "file": [f"{row % different}.jpg" for row in range(count)],
        "labels": nothing,
        "unknown": nothing,
    }
    table = pa.table(columns).replace_schema_metadata({b"t2ipal": json.dumps(described).encode()})
    pq.write_table(table, folder / "index.parquet")
    return folder / "index.parquet"


JOB = """
import json, sys
from pathlib import Path
import torch
from t2ipal.features import stage
from t2ipal.features.backbone import Backbone

torch.set_num_threads(1)
encode, batches = Backbone.encode_pixels, iter(range(10_000))

def held(self, batch):
    if next(batches) == 4:
        sys.stdin.read()  # in the middle of a part, until it is killed, or for no time
    return encode(self, batch)

Backbone.encode_pixels = held
settings, index, folder = json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
for part in range(2):
    output = folder / f"part-{part}.parquet"
    if not output.exists():  # as the workflow does
        stage.extract_images(settings, part, output, "cpu", index=index, workers=1)
"""


def _run(settings: dict[str, Any], index: Path, folder: Path, stdin: int) -> subprocess.Popen[bytes]:
    """A job; with a pipe for ``stdin`` it stands still in the middle of a part."""
    command = [sys.executable, "-c", JOB, json.dumps(settings), str(index), str(folder)]
    return subprocess.Popen(command, stdin=stdin, stderr=subprocess.DEVNULL)


def _half_written(folder: Path, part: int) -> list[Path]:
    """Work files of a part with something in them."""
    return [path for path in folder.glob(f".part-{part}.parquet.*.part") if path.stat().st_size]


@pytest.mark.slow
def test_a_killed_extraction_leaves_whole_parts_alone_and_goes_on_with_the_first_that_is_not(tmp_path: Path) -> None:
    settings, index, folder = _settings(), _index(tmp_path, 2 * PART, 50), tmp_path / "parts"
    folder.mkdir()
    for part in range(2):
        with _run(settings, index, folder, subprocess.PIPE) as process:
            deadline = time.monotonic() + 600
            while not _half_written(folder, part) and time.monotonic() < deadline:
                assert process.poll() is None
                time.sleep(0.002)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        whole = sorted(path.name for path in folder.glob("part-*"))
        assert whole == [f"part-{done}.parquet" for done in range(part)]
        assert len(_half_written(folder, part)) == 1
        assert len(list(folder.iterdir())) == part + 1  # what the last one that was killed had left is gone
        stamps = {name: (folder / name).stat().st_mtime_ns for name in whole}
        if part < 1:
            stage.extract_images(settings, part, folder / f"part-{part}.parquet", "cpu", index=index)
    with _run(settings, index, folder, subprocess.DEVNULL) as process:
        pass
    assert process.returncode == 0
    assert {name: (folder / name).stat().st_mtime_ns for name in stamps} == stamps
    parts = [folder / f"part-{part}.parquet" for part in range(2)]
    assert sorted(folder.iterdir()) == parts
    undisturbed = [tmp_path / f"undisturbed-{part}" for part in range(2)]
    for part, path in enumerate(undisturbed):
        stage.extract_images(settings, part, path, "cpu", index=index)
    found, expected = store.read(parts), store.read(undisturbed)
    assert found.keys == expected.keys == [f"k{row}" for row in range(2 * PART)]
    # But for the last bits, as this process may compute on more threads than the killed ones.
    for name in ("global_", "local"):
        assert np.allclose(getattr(found, name), getattr(expected, name), rtol=0, atol=2e-3)


MEMORY = """
import json, sys
from pathlib import Path
import torch
from t2ipal.features import backbone, stage

torch.set_num_threads(1)
settings, indices, output, workers = json.loads(sys.argv[1]), sys.argv[2].split(), Path(sys.argv[3]), int(sys.argv[4])
loaded = backbone.load(settings)
stage.load = lambda *_: loaded
if __name__ == "__main__":  # workers import this, too
    for index in [indices[0], *indices]:  # the first time to warm up
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
        stage.extract_images(settings, 0, output, "cpu", index=Path(index), workers=workers)
        lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
        print(next(int(words[1]) for words in lines if words[0] == "VmHWM:"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path, workers: int) -> None:
    """2,750 images more are 76 MB of decoded pixels, and 13 MB of features."""
    settings = _settings(part_size=3000, batch_size=25)
    indices = [_index(tmp_path / str(count), count, 50) for count in (250, 3000)]
    given = [json.dumps(settings), " ".join(map(str, indices)), str(tmp_path / "p"), str(workers)]
    command = [sys.executable, "-c", MEMORY, *given]
    # What is freed goes back to the system: else the heap's holes, a few MB more or fewer, are counted, too. Arrow's
    # own allocator gives it back after some time only.
    allocator = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "ARROW_DEFAULT_MEMORY_POOL": "system"}
    environment = os.environ | allocator
    shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout
    _, few, many = map(int, shown.split())
    assert many - few < 10_000  # kB
