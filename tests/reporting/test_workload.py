from __future__ import annotations

from t2ipal.config import parse
from t2ipal.experiments import experiments
from t2ipal.reporting.workload import workload


def test_what_each_stage_works_on_is_counted_from_the_units() -> None:
    config = parse(
        {
            "seeds": [0, 1],
            "methods": ["zero-shot", "tai-dpt", "t2i-pal-filtered", "oracle"],
            "benchmark": {"test_images": 30, "train_images": 20},
            "captions": {"total": 50},
            "synthesis": {"model": "hub/model", "images_per_caption": 2, "shard_size": 20, "batch_size": 10},
            "features": {"backbone": "RN50"},
        }
    )
    # Two seeds of 50 captions with 2 images each; features of these, of captions, 20 real and 30 test images. A model
    # of one that learns nothing counts once; the filtered one is made from prompts of the same seed.
    found = workload(experiments(config)["summary"].units)
    assert found["captions"] == (100, "captions")
    assert found["synthesis"] == found["verification"] == (200, "images")
    assert found["features"] == (200 + 100 + 20 + 30, "rows")
    assert found["evaluation"] == (7, "models")
