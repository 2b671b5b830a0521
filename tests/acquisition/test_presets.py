"""The catalogue brings what the benchmarks read and what the shipped configurations name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from t2ipal import benchmarks, config
from t2ipal.acquisition.catalogue import Item, item, owner
from t2ipal.benchmarks import FileBenchmark
from t2ipal.settings import BenchmarkSettings

CONFIGS = Path(__file__).resolve().parents[2] / "config"
PRESETS = ["voc2007", "coco2014", "nuswide"]
SPLITS = [(name, split) for name in ("voc2007", "coco2014", "coco2017") for split in ("train", "test")]


def _benchmark(settings: BenchmarkSettings) -> FileBenchmark:
    found = benchmarks.load(settings)
    assert isinstance(found, FileBenchmark)
    return found


def _corpus(settings: config.Config) -> list[str]:
    return [*settings.captions.corpus.files, *settings.captions.corpus.evaluation_ids]


@pytest.fixture(params=PRESETS)
def preset(request):
    return config.load(CONFIGS / f"{request.param}.yaml")


def test_every_caption_file_of_a_preset_is_downloaded(preset):
    assert _corpus(preset)
    for file in _corpus(preset):
        found = owner(file, Path(preset.benchmark.downloads))
        assert found is not None, file
        assert str(Path(file).relative_to(preset.benchmark.downloads)) in found.expected


def test_a_preset_without_own_images_downloads_them(preset):
    wanted = _benchmark(preset.benchmark)
    assert bool(wanted.downloads) == (preset.benchmark.path is None)
    # NUS-WIDE is put by hand to where downloads would go.
    assert preset.benchmark.path in (None, f"{preset.benchmark.downloads}/{wanted.folder}")


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_what_is_downloaded_for_a_split_holds_what_is_read_of_it(name, split, tmp_path):
    found = _benchmark(BenchmarkSettings(name=name, downloads=str(tmp_path)))
    items = [item(name) for name in found.downloads[split]]
    expected = {pattern: number for wanted in items for pattern, number in wanted.expected.items()}
    for source in found.sources(split):
        assert expected[str(source.relative_to(tmp_path))] == 1
    images = [number for pattern, number in expected.items() if pattern.endswith(".jpg")]
    assert images == [found.official[split][0]]


@pytest.mark.parametrize("name", ["voc2007", "coco2014"])
def test_a_preset_says_how_much_it_downloads(name):
    preset = config.load(CONFIGS / f"{name}.yaml")
    splits = ["test", "train"] if "oracle" in preset.methods else ["test"]
    wanted = {download for split in splits for download in _benchmark(preset.benchmark).downloads[split]}
    wanted |= {_owner(file, preset).name for file in _corpus(preset)}
    said = re.search(r"Downloads about ([\d.]+) GB of images and captions", (CONFIGS / f"{name}.yaml").read_text())
    assert said is not None
    assert float(said[1]) * 1e9 == pytest.approx(sum(item(name).bytes for name in wanted), rel=0.1)


def _owner(file: str, preset: config.Config) -> Item:
    found = owner(file, Path(preset.benchmark.downloads))
    assert found is not None
    return found
