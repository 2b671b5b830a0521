"""The shipped catalogue is whole, found by name and by file, tells what disk it needs, and is on its page in docs."""

from __future__ import annotations

import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import ValidationError

from t2ipal.acquisition.catalogue import Archive, Item, item, items, load, needed_bytes, owner
from t2ipal.acquisition.room import render, shown_bytes
from t2ipal.benchmarks.coco import Coco2014Benchmark, Coco2017Benchmark
from t2ipal.benchmarks.voc2007 import Voc2007Benchmark
from t2ipal.errors import UserError

BENCHMARKS = [
    *("voc2007-trainval", "voc2007-test"),
    *("coco2014-annotations", "coco2014-train", "coco2014-val"),
    *("coco2017-annotations", "coco2017-train", "coco2017-val"),
]
ARCHIVES = [archive for found in items().values() for archive in found.files]


def test_every_item_of_a_benchmark_is_there():
    assert set(items()) == {*BENCHMARKS, "openimages-captions"}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_item_of_a_benchmark_has_a_sha256_and_an_exact_size(name):
    for archive in item(name).files:
        assert archive.checksum is not None
        assert archive.checksum.startswith("sha256:")
        assert not archive.rounded


@pytest.mark.parametrize("name", items())
def test_what_is_unpacked_is_no_smaller_than_the_archive(name):
    found = item(name)
    assert found.unpacked_bytes >= found.bytes
    assert found.home.startswith("http")
    assert found.terms.endswith(".")


def test_files_and_manifests_have_names_of_their_own():
    names = [archive.name for archive in ARCHIVES]
    assert len(set(names)) == len(names)
    assert len({found.identity for found in items().values()}) == len(items())
    assert not {f"{name}.json" for name in items()} & set(names)


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda archive: archive.name)
def test_all_addresses_of_a_file_end_with_its_name(archive):
    assert {url.rpartition("/")[2] for url in archive.urls} == {archive.name}
    endings = {"tar": ".tar", "tar.gz": ".tar.gz", "zip": ".zip", "file": ""}
    assert archive.name.endswith(endings[archive.kind])


@pytest.mark.parametrize("name", items())
def test_what_is_expected_lies_where_it_is_unpacked(name):
    for pattern in item(name).expected:
        folders = {archive.directory for archive in item(name).files}
        assert folders == {"."} or any(pattern.startswith(f"{folder}/") for folder in folders)


def test_an_unknown_item_is_named_with_those_that_there_are():
    with pytest.raises(UserError, match=r"no 'voc2012': it has voc2007-trainval, .*openimages-captions"):
        item("voc2012")


def test_the_identity_changes_with_the_content_and_not_with_the_address():
    found = item("voc2007-test")
    (archive,) = found.files
    moved = archive.model_copy(update={"urls": ("https://example.org/x.tar",)})
    other = archive.model_copy(update={"checksum": f"sha256:{'0' * 64}"})
    assert found.model_copy(update={"files": (moved,)}).identity == found.identity
    assert found.model_copy(update={"files": (other,)}).identity != found.identity


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("data/coco/annotations/captions_train2014.json", "coco2014-annotations"),
        ("./data/coco/annotations/../annotations/captions_train2014.json", "coco2014-annotations"),
        ("data/coco/annotations/captions_*2017.json", "coco2017-annotations"),
        ("data/openimages/open_images_train_v6_captions.jsonl", "openimages-captions"),
        ("data/coco/val2014/COCO_val2014_000000000042.jpg", "coco2014-val"),
        ("data/coco/annotations/mine.json", None),
        ("elsewhere/coco/annotations/captions_train2014.json", None),
        ("mine.json", None),
    ],
)
def test_files_are_owned_by_the_item_that_brings_them(pattern, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = owner(pattern, Path("data"))
    assert (found.name if found else None) == name
    absolute = owner(str(tmp_path / pattern), Path("data"))
    assert absolute == found


def test_a_pattern_of_files_of_two_items_is_refused(tmp_path):
    with pytest.raises(UserError, match="coco2014-annotations, coco2017-annotations"):
        owner(str(tmp_path / "coco/annotations/captions_*.json"), tmp_path)


def test_disk_is_needed_for_what_is_not_there(make_archive, make_item, tmp_path):
    one = make_item(make_archive(bytes(1000), "one.bin"), name="one", unpacked_bytes=5000)
    two = make_item(make_archive(bytes(300), "two.bin"), name="two", unpacked_bytes=700)
    assert needed_bytes([one, two], tmp_path) == 1000 + 5000 + 300 + 700
    (tmp_path / "one.bin.part").write_bytes(bytes(400))
    assert needed_bytes([one, two], tmp_path) == 600 + 5000 + 300 + 700
    (tmp_path / "one.bin").write_bytes(bytes(1000))
    assert needed_bytes([one, two], tmp_path) == 5000 + 300 + 700
    one.manifest(tmp_path).write_text("{}")
    assert needed_bytes([one, two], tmp_path) == 300 + 700


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_file_in_a_mirror_s_directory_needs_no_disk(form, make_archive, make_item, tmp_path):
    found = make_item(make_archive(bytes(1000), "one.bin"), unpacked_bytes=5000)
    mirror = tmp_path / "with space"
    mirror.mkdir()
    (mirror / "one.bin").write_bytes(bytes(1000))
    address = form.format(str(mirror).replace(" ", "%20") if form.startswith("file") else mirror)
    assert needed_bytes([found], tmp_path, [address]) == 5000
    assert needed_bytes([found], tmp_path, ["https://example.org"]) == 6000


ENTRY = """
one:
  home: https://example.org
  terms: none
  unpacked_bytes: 10
  expected: {"a": 1}
  files:
    - {urls: ["https://example.org/a"], bytes: 10, checksum: null, kind: file, directory: .}
"""


def test_a_catalogue_of_one_s_own_is_read(tmp_path):
    (tmp_path / "own.yaml").write_text(ENTRY)
    assert load(tmp_path / "own.yaml")["one"].files[0].name == "a"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("https://example.org/a", "ftp://example.org/a"),
        ("https://example.org/a", "https://example.org/"),
        ("bytes: 10, checksum", "bytes: 0, checksum"),
        ("checksum: null", "checksum: md5:12"),
        ("kind: file", "kind: rar"),
        ('{"a": 1}', '{"a": 0}'),
        ('{"a": 1}', "{}"),
    ],
)
def test_a_faulty_catalogue_is_not_read(right, wrong, tmp_path):
    assert right in ENTRY
    (tmp_path / "own.yaml").write_text(ENTRY.replace(right, wrong))
    with pytest.raises(ValidationError):
        load(tmp_path / "own.yaml")


def test_the_catalogue_needs_no_heavy_library():
    program = "import sys, t2ipal.acquisition.catalogue as c; c.items(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "pandas", "requests"} & set(done.stdout.split())


def test_patterns_of_items_do_not_overlap():
    patterns = [(name, pattern) for name, found in items().items() for pattern in found.expected]
    for name, pattern in patterns:
        for other, known in patterns:
            if name != other and not pattern.startswith("VOCdevkit"):
                assert not fnmatchcase(pattern, known), f"{name} and {other}"


PAGE = (Path(__file__).resolve().parents[2] / "docs" / "acquisition.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", items())
def test_the_page_has_the_files_sizes_and_hosts_of_an_item(name):
    found = item(name)
    rows = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` | ")]
    assert rows == [_row(found, archive) for archive in found.files]


def _row(found: Item, archive: Archive) -> str:
    hosts = ", ".join(dict.fromkeys(urlsplit(url).netloc for url in archive.urls))
    size = f"{'about ' if archive.rounded else ''}{shown_bytes(archive.bytes)}"
    return f"| `{found.name}` | `{archive.name}` | {size} | {shown_bytes(found.unpacked_bytes)} | {hosts} |"


@pytest.mark.parametrize("name", items())
def test_the_page_has_the_terms_of_an_item(name):
    found = item(name)
    (line,) = [line for line in PAGE.splitlines() if line.startswith("- ") and f"`{name}`" in line and ": " in line]
    assert line.endswith(f": {found.terms} ([page]({found.home}))")


@pytest.mark.parametrize(
    "benchmark", [Voc2007Benchmark, Coco2014Benchmark, Coco2017Benchmark], ids=lambda benchmark: benchmark.__name__
)
def test_the_page_has_the_items_of_a_benchmark(benchmark):
    test, train = (", ".join(f"`{name}`" for name in benchmark.downloads[split]) for split in ("test", "train"))
    assert re.search(rf"^\| `\w+` \| {test} \| {train} \|$", PAGE, re.MULTILINE)


def test_the_page_shows_what_a_run_says(tmp_path):
    (shown,) = re.findall(r"```text\n(Downloads to .*?)```", PAGE, re.DOTALL)
    names = re.findall(r"^  ([\w-]+): ", shown, re.MULTILINE)
    said = render([item(name) for name in names], tmp_path)
    assert shown.rpartition(";")[0] == said.rpartition(";")[0].replace(str(tmp_path), "data")
