from __future__ import annotations

import pytest

from t2ipal.reporting.records import collect, records, rows
from t2ipal.reporting.table import plain_text


def table_of(run) -> str:
    return plain_text(rows(records(collect(run.config))))


def test_the_table_is_aligned_narrow_and_in_config_order(run):
    lines = table_of(run).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0].split("  ")[0] == "method"
    body = lines[2:8]
    assert [line.split()[0] for line in body] == list(run.config.methods)
    assert len({line.index(" ± ") for line in body}) == 1
    assert "protocol openmoji-v1/test-20/resize96" in lines


def test_a_line_gives_percent_with_two_decimals_source_and_seeds(run):
    line = next(line for line in table_of(run).splitlines() if line.startswith("tai-dpt"))
    assert line.split() == ["tai-dpt", "captions", "54.00", "±", "1.41", "30.00", "±", "0.00", "3,", "5"]


def test_methods_that_learn_nothing_hold_for_any_seed(run):
    line = next(line for line in table_of(run).splitlines() if line.startswith("zero-shot "))
    assert "nothing (zero-shot)" in line and line.endswith("any")


def test_one_seed_has_no_spread(make_run):
    run = make_run(seeds=[7], methods=["tai-dpt"])
    run.write_all_metrics()
    assert "±" not in "".join(table_of(run).splitlines()[:4])


def test_each_protocol_has_a_table_of_its_own(run):
    for seed in run.config.seeds:
        run.write_metrics("oracle", seed, protocol="other")
    text = table_of(run)
    assert text.count("trained on") == 2
    assert text.index("protocol openmoji") < text.index("oracle") < text.index("protocol other")


@pytest.mark.parametrize("length", [10, 400])
def test_long_ids_and_many_seeds_stay_within_100_columns(make_run, length):
    run = make_run(seeds=list(range(8)))
    for method in run.config.methods:
        for seed in run.config.seeds:
            run.write_metrics(method, seed, protocol="p" * length, backbone="b" * length)
    lines = table_of(run).splitlines()
    assert max(map(len, lines)) <= 100
    assert any("8 seeds" in line for line in lines)
