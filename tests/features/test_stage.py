from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from t2ipal import benchmarks
from t2ipal.config import parse
from t2ipal.errors import UserError
from t2ipal.features import backbone as backbones
from t2ipal.features import extraction, stage, store
from t2ipal.features.backbone import Backbone
from t2ipal.layout import Layout

PACK = f"local-dir:{Path(__file__).resolve().parents[2] / 'src/t2ipal/pack/models/clip'}"
COUNT = 7


def _settings(source: str = "test", **features: Any) -> dict[str, Any]:
    changes = {"backbone": PACK, "batch_size": 3, "part_size": 5, **features}
    config = parse({"benchmark": {"test_images": 20}, "features": changes})
    return {**Layout(config).features("test", 0).settings, "source": source}


@pytest.fixture(scope="module")
def pack() -> Backbone:
    return backbones.load(_settings())


@pytest.fixture(autouse=True)
def _loaded_once(monkeypatch: pytest.MonkeyPatch, pack: Backbone) -> None:
    """The pack's CLIP, for all tests; and another one only where it is of half precision."""

    def load(settings: dict[str, Any], device: str) -> Backbone:
        return pack if settings["precision"] == "float32" else backbones.load(settings, device)

    monkeypatch.setattr(stage, "load", load)


def _pixels(row: int) -> NDArray[np.uint8]:
    return np.random.default_rng(row).integers(0, 256, (80 + row, 100, 3), dtype=np.uint8)


def _encoded(row: int, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_pixels(row)).save(buffer, kind)
    return buffer.getvalue()


def _straight(pack: Backbone, images: list[Image.Image], size: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Features as they are stored, without workers, threads or a divided transform."""
    found = [pack.encode_images(images[start : start + size]) for start in range(0, len(images), size)]
    columns = [np.concatenate([part[column].numpy() for part in found]) for column in (0, 1)]
    return columns[0].astype(np.float16), columns[1].astype(np.float16)


def _shard(path: Path, count: int = COUNT) -> Path:
    with tarfile.open(path, "w") as archive:
        for row in range(count):
            record = json.dumps({"labels": ["cat"] if row % 2 else []}).encode()
            for ending, content in (("png", _encoded(row, "PNG")), ("txt", b"a"), ("json", record)):
                info = tarfile.TarInfo(f"k{row}.{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def make_index(tmp_path: Path) -> Callable[..., Path]:
    """Writes images and the list of them; those of ``broken`` are cut off, those of ``absent`` not there."""

    def make(count: int = COUNT, broken: tuple[int, ...] = (), absent: tuple[int, ...] = ()) -> Path:
        root = tmp_path / "images"
        root.mkdir()
        for row in set(range(count)) - set(absent):
            content = _encoded(row, "JPEG")
            (root / f"{row}.jpg").write_bytes(content[: len(content) // 2] if row in broken else content)
        described = {
            "root": str(root),
            "protocol": f"voc2007/test-{count}",
            "label_names": ["cat", "dog"],
            "split": "test",
            "images": count,
        }
        columns = {
            "key": [f"k{row}" for row in range(count)],
            "file": [f"{row}.jpg" for row in range(count)],
            "labels": pa.array([["cat"] if row % 2 else [] for row in range(count)], pa.list_(pa.string())),
            "unknown": pa.array([[] if row % 2 else ["dog"] for row in range(count)], pa.list_(pa.string())),
        }
        table = pa.table(columns).replace_schema_metadata({b"t2ipal": json.dumps(described).encode()})
        pq.write_table(table, tmp_path / "index.parquet")
        return tmp_path / "index.parquet"

    return make


def _facts(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pq.read_metadata(path).metadata[store.FACTS])
    return found


@pytest.mark.parametrize("workers", [None, 2])
def test_features_of_a_shard_are_bit_for_bit_those_of_a_plain_loop(
    tmp_path: Path, pack: Backbone, workers: int | None
) -> None:
    stage.extract_shard(_settings("synthetic"), _shard(tmp_path / "s.tar"), tmp_path / "p", "cpu", workers=workers)
    found = store.read([tmp_path / "p"])
    images = [Image.open(io.BytesIO(_encoded(row, "PNG"))) for row in range(COUNT)]
    global_, local = _straight(pack, list(images), 3)
    assert np.array_equal(found.global_, global_) and np.array_equal(found.local, local)
    assert found.keys == [f"k{row}" for row in range(COUNT)]
    assert found.labels == [["cat"] if row % 2 else [] for row in range(COUNT)]
    assert found.length.tolist() == [9] * COUNT
    assert found.meta == {
        "source": "synthetic",
        "backbone": PACK,
        "identity": pack.identity,
        "preprocessing": "crop96",
        "grid": [3, 3],
        "format": 1,
        "L": 9,
        "D": 128,
    }


def test_features_of_rendered_images_are_bit_for_bit_those_of_a_plain_loop(tmp_path: Path, pack: Backbone) -> None:
    settings = _settings(part_size=12)
    for part in range(2):
        stage.extract_images(settings, part, tmp_path / f"p{part}", "cpu")
    found = store.read([tmp_path / "p0", tmp_path / "p1"])
    split = benchmarks.load(parse({"benchmark": {"test_images": 20}}).benchmark).split("test")
    pieces = [_straight(pack, [split.image(row) for row in rows], 3) for rows in (range(12), range(12, 20))]
    assert np.array_equal(found.global_, np.concatenate([piece[0] for piece in pieces]))
    assert np.array_equal(found.local, np.concatenate([piece[1] for piece in pieces]))
    assert (found.keys, found.labels) == (split.keys, split.labels)
    assert found.meta["protocol"] == "openmoji-v1/test-20/crop96"


@pytest.mark.parametrize("workers", [0, 2])
def test_features_of_files_are_those_of_the_indexs_rows(
    tmp_path: Path, pack: Backbone, make_index: Callable[..., Path], workers: int
) -> None:
    index = make_index()
    for part in range(2):
        stage.extract_images(_settings(), part, tmp_path / f"p{part}", "cpu", index=index, workers=workers)
    found = store.read([tmp_path / "p0", tmp_path / "p1"])
    images = [Image.open(tmp_path / f"images/{row}.jpg") for row in range(COUNT)]
    pieces = [_straight(pack, list(images[:5]), 3), _straight(pack, list(images[5:]), 3)]
    assert np.array_equal(found.global_, np.concatenate([piece[0] for piece in pieces]))
    assert np.array_equal(found.local, np.concatenate([piece[1] for piece in pieces]))
    assert found.keys == [f"k{row}" for row in range(COUNT)]
    assert found.targets(["cat", "dog"]).tolist() == [[1, 0] if row % 2 else [0, -1] for row in range(COUNT)]
    assert (found.meta["protocol"], found.meta["label_names"]) == ("voc2007/test-7/crop96", ["cat", "dog"])
    assert found.missing == []


def test_what_cannot_be_read_is_recorded_and_no_row(
    tmp_path: Path, make_index: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    index = make_index(broken=(1, 6), absent=(3,))
    for part in range(2):
        stage.extract_images(_settings(), part, tmp_path / f"p{part}", "cpu", index=index, missing=3 / 7)
    found = store.read([tmp_path / "p0", tmp_path / "p1"])
    assert found.keys == ["k0", "k2", "k4", "k5"]
    assert [(record["key"], record["file"]) for record in found.missing] == [
        ("k1", "1.jpg"),
        ("k3", "3.jpg"),
        ("k6", "6.jpg"),
    ]
    assert "truncated" in found.missing[0]["reason"]
    assert found.missing[1]["reason"] == "there is no such file"
    assert _facts(tmp_path / "p0")["missing"] == found.missing[:2]
    assert "left out: 3.jpg: there is no such file" in capsys.readouterr().err


def test_more_than_is_tolerated_are_named_with_the_mend(tmp_path: Path, make_index: Callable[..., Path]) -> None:
    index = make_index(broken=(0,), absent=(1, 2, 4))
    with pytest.raises(UserError) as caught:
        stage.extract_images(_settings(), 0, tmp_path / "p", "cpu", index=index, missing=3.9 / 7)
    first, rest = str(caught.value).split("; restore them")
    assert first.startswith(
        f"4 of the 7 test images in {tmp_path / 'images'} cannot be read: 0.jpg (image file is trunc"
    )
    assert first.endswith("1.jpg (there is no such file), 2.jpg (there is no such file) and 1 more")
    assert rest.startswith(", or raise benchmark.missing to at least 0.5715 to leave them out")
    assert not (tmp_path / "p").exists()
    stage.extract_images(_settings(), 0, tmp_path / "p", "cpu", index=index, missing=0.5715)
    assert store.read([tmp_path / "p"]).keys == ["k3"]


def test_a_part_may_have_no_row(tmp_path: Path, make_index: Callable[..., Path]) -> None:
    index = make_index(absent=(5, 6))
    for part in range(2):
        stage.extract_images(_settings(), part, tmp_path / f"p{part}", "cpu", index=index, missing=0.5)
    alone, both = store.read([tmp_path / "p1"]), store.read([tmp_path / "p0", tmp_path / "p1"])
    assert alone.global_.shape == (0, 128) and alone.local.shape == (0, 9, 128) and alone.keys == []
    assert len(alone.missing) == 2
    assert both.keys == [f"k{row}" for row in range(5)] and both.missing == alone.missing


def test_a_part_beyond_the_index_is_an_error(tmp_path: Path, make_index: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="no rows to write"):
        stage.extract_images(_settings(), 9, tmp_path / "p", "cpu", index=make_index(), missing=1.0)


def test_a_damaged_image_of_a_shard_is_an_error(tmp_path: Path) -> None:
    shard = _shard(tmp_path / "s.tar")
    content = _encoded(4, "PNG")
    archived = shard.read_bytes()
    start = archived.index(content) + len(content) // 2
    shard.write_bytes(archived[:start] + bytes(20) + archived[start + 20 :])
    with pytest.raises(UserError, match=r"synthetic image k4 is damaged \(.*\); delete .*s\.tar and rerun"):
        stage.extract_shard(_settings("synthetic"), shard, tmp_path / "p", "cpu")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_says_what_it_costs(
    tmp_path: Path, precision: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []
    error = extraction.precision.error
    monkeypatch.setattr(extraction.precision, "error", lambda *args: (compared.append(len(args[2])), error(*args))[1])
    monkeypatch.setattr(extraction, "COMPARED", 2)
    settings = _settings("synthetic", precision=precision)
    stage.extract_shard(settings, _shard(tmp_path / "s.tar"), tmp_path / "p", "cpu")
    facts = _facts(tmp_path / "p")
    assert compared == [2]
    assert all(0 <= value < 0.05 for name, value in facts["precision_error"].items() if "error" in name)
    assert f"torch.{precision} against float32: " in capsys.readouterr().err
    assert facts["images_per_second"] > 0 and facts["seconds"] > 0


def test_single_precision_is_not_compared(tmp_path: Path) -> None:
    stage.extract_shard(_settings("synthetic"), _shard(tmp_path / "s.tar"), tmp_path / "p", "cpu")
    assert set(_facts(tmp_path / "p")) == {"missing", "seconds", "images_per_second"}


def test_shards_of_one_job_load_the_clip_once_and_a_finished_part_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Backbone
) -> None:
    loadings: list[str] = []
    monkeypatch.setattr(stage, "load", lambda settings, device: (loadings.append(device), pack)[1])
    stage._opened.cache_clear()
    parts = {_shard(tmp_path / f"{name}.tar"): tmp_path / f"part-{name}" for name in ("a", "b", "c")}
    kept = parts[tmp_path / "b.tar"]
    kept.write_text("an earlier job's")
    stage.extract_shards(_settings("synthetic"), parts, "cpu", workers=0)
    assert loadings == ["cpu"]
    assert kept.read_text() == "an earlier job's"
    assert all(store.read([part]).keys for part in parts.values() if part != kept)
