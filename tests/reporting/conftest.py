from __future__ import annotations

import numpy as np
import pytest

from t2ipal import benchmarks
from t2ipal.captions.stage import write_captions
from t2ipal.features.store import target_matrix
from t2ipal.labels import LabelSet


@pytest.fixture
def finished(run, write_scores):
    """A run with everything that the report shows, by hand."""
    run.write_shard(run.sample("a-000", "a cat on a mat", ["cat"]), run.sample("b-000", "a dog", ["dog", "person"]))
    run.write_model()
    run.write_features()
    captions = run.layout.captions(run.config.seeds[0])
    write_captions(captions.settings, run.layout.directory(captions) / "captions.parquet")
    names = LabelSet.load("voc2007").names
    split = benchmarks.load(run.config.benchmark).split("test")
    targets = target_matrix(split.labels, split.unknown, names)
    for method in run.config.methods:
        directory = run.metrics_path(method, run.config.seeds[0]).parent
        scores = np.random.default_rng(0).normal(size=targets.shape) + targets
        write_scores(directory / "scores.parquet", targets, scores, names, [str(key) for key in split.keys])
    return run
