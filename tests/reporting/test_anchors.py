from __future__ import annotations

from t2ipal.reporting.anchors import anchors


def test_published_numbers_are_of_the_benchmarks_of_the_run_only():
    assert {anchor.benchmark for anchor in anchors({"voc2007", "own"})} == {"voc2007"}
    assert not anchors({"openmoji"})


def test_every_benchmark_of_the_paper_has_text_only_numbers_to_be_seen_beside():
    for name in ("voc2007", "coco2014", "nuswide"):
        assert {"TaI-DPT", "CLIP zero-shot"} <= {anchor.method for anchor in anchors({name})}


def test_every_number_says_who_measured_it_and_whether_test_images_were_looked_at_together():
    for anchor in anchors({"voc2007", "coco2014", "nuswide"}):
        assert anchor.source and anchor.notes.split(",")[0] in ("inductive", "transductive")
