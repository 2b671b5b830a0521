"""Downloads as the DAG sees them: asked for where they are missing, left alone where they are there."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.slow

COCO = Path(__file__).resolve().parents[3] / "shared" / "data" / "coco"
PHOTOGRAPHS = 79


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    """A directory of downloads as `t2ipal acquire` leaves it, with a part of COCO's images."""
    if not COCO.is_dir():
        pytest.skip(f"there are no real annotations in {COCO}")
    directory = tmp_path / "downloads"
    directory.mkdir()
    (directory / "coco").symlink_to(COCO)
    for item in ("coco2017-annotations", "coco2017-val"):
        (directory / f"{item}.json").write_text("{}")
    return directory


def _overlay(downloads: Path, **more: object) -> dict:
    benchmark = {"name": "coco2017", "labels": "coco", "downloads": str(downloads), **more}
    return {"benchmark": benchmark, "methods": ["zero-shot"], "seeds": [0]}


def test_what_is_missing_is_asked_for_before_the_images_are_listed(fresh, tmp_path):
    planned = fresh.planned("eval_all", overlay=_overlay(tmp_path / "nothing"))
    assert {"acquire_coco2017_annotations", "acquire_coco2017_val", "index"} <= set(planned)
    assert set(fresh.planned("acquire_all", overlay=_overlay(tmp_path / "nothing"))) == {
        "acquire_coco2017_annotations",
        "acquire_coco2017_val",
    }


def test_what_is_there_is_used_and_not_asked_for_again(fresh, downloads):
    overlay = _overlay(downloads, test_images=PHOTOGRAPHS)
    planned = fresh.planned("eval_all", overlay=overlay)
    assert not [rule for rule in planned if rule.startswith("acquire")]
    summary = fresh.run("--dry-run", "--summary", "eval_all", overlay=overlay).stdout
    (target,) = [line.split("\t")[0] for line in summary.splitlines() if "/index/" in line.split("\t")[0]]
    fresh.run(target, overlay=overlay)
    rows = pq.read_table(fresh.root / target).to_pylist()
    assert len(rows) == PHOTOGRAPHS
    assert all((downloads / "coco" / row["file"]).is_file() for row in rows)


def test_what_a_run_will_download_is_said_first_and_a_failure_is_one_sentence(fresh, tmp_path):
    # A file of the right name and the wrong content is refused at once, without asking any host.
    for name in ("annotations_trainval2017.zip", "val2017.zip"):
        (tmp_path / name).write_bytes(b"no archive")
    done = fresh.snakemake("acquire_all", overlay=_overlay(tmp_path))
    said = done.stdout + done.stderr
    assert said.index("coco2017-val: at hand") < said.index("free.") < said.index("Execute")
    assert done.returncode != 0 and "Traceback" not in said
    assert "t2ipal: error:" in said


def test_a_file_in_the_way_of_downloads_is_named(fresh, tmp_path):
    (tmp_path / "file").write_text("")
    done = fresh.snakemake("acquire_all", overlay=_overlay(tmp_path / "file" / "downloads"))
    said = done.stdout + done.stderr
    assert done.returncode != 0 and "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("t2ipal: error:")]
    assert "benchmark.downloads" in line and str(tmp_path / "file") in line
