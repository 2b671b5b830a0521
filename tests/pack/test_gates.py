from __future__ import annotations

import numpy as np

from t2ipal.labels import LabelSet
from t2ipal.pack import gates


def test_prompts_of_the_gates_name_their_class_and_no_other() -> None:
    labels = LabelSet.load("voc2007")
    for prompts in (gates.named(labels), gates.captioned(labels)):
        assert set(prompts) == set(labels.names)
        for name, texts in prompts.items():
            assert len(texts) == gates.IMAGES_PER_CLASS
            assert all(labels.labels(text) == (name,) for text in texts)
    assert all(len(set(texts)) == len(texts) for texts in gates.captioned(labels).values())


def test_the_probe_ranks_what_is_linear_in_the_features() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((300, 6)).astype(np.float32)
    targets = (features[:, :2] > 0.5).astype(np.int8)
    scores = gates.probe(features[:200], targets[:200], features[200:])
    for column in range(2):
        assert np.corrcoef(scores[:, column], features[200:, column])[0, 1] > 0.95
