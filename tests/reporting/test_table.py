from __future__ import annotations

import pytest

from t2ipal.experiments import named
from t2ipal.reporting.records import Row, collect, records, rows
from t2ipal.reporting.table import averaged, plain_text, point_text, shortened, tables, title


def table_of(run) -> str:
    return plain_text(rows(records(collect(named(run.config, "summary"))), run.config))


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


def _rows(methods: list[str], metrics: list[str], seeds: int, value: float = 0.5, trained_on: str = "captions"):
    return [
        Row("openmoji", method, "RN50", metric, value, 0.0125, tuple(range(seeds)), "p", trained_on)
        for method in methods
        for metric in metrics
    ]


def test_calibrated_f1_stands_beside_the_others_where_there_is_one():
    rows = [*_rows(["tai-dpt"], ["mAP", "CF1_top3", "CF1", "ECE"], 3), *_rows(["zero-shot"], ["mAP", "CF1_top3"], 3)]
    text = plain_text(rows)
    lines = text.splitlines()
    assert lines[0].split() == ["method", "trained", "on", "mAP", "CF1", "top-3", "CF1", "calib.", "seeds"]
    assert lines[2].count("50.00 ± 1.25") == 3
    assert lines[3].count("50.00 ± 1.25") == 2 and " -  0, 1, 2" in lines[3]
    assert "CF1 calib.: at each class's threshold" in text
    assert "CF1 calib." not in plain_text(_rows(["tai-dpt"], ["mAP", "CF1_top3"], 3))


def test_all_metrics_have_titles_and_stand_in_one_order():
    names = ["mAP", "mAP_voc11", "CF1_top3", "OF1_top3", "CF1", "OF1", "CP", "CR", "OP", "OR", "ECE"]
    (table,) = tables(_rows(["tai-dpt"], [*sorted(names), "CP_top3"], 1))
    assert table.metrics == (*names, "CP_top3")
    assert [title(name) for name in ("CF1", "OR", "ECE", "CP_top3")] == [
        "CF1 calibrated", "OR calibrated", "ECE", "CP top3",
    ]  # fmt: skip


def test_chance_is_a_line_below_and_no_column():
    rows = _rows(["tai-dpt"], ["mAP", "mAP_chance"], 3)
    (table,) = tables(rows)
    assert table.metrics == ("mAP",)
    assert plain_text(rows).splitlines()[-1] == "a random order of the images is expected to have mAP 50.00"
    assert tables(_rows(["tai-dpt"], ["mAP"], 3))[0].note is None


@pytest.mark.parametrize(
    ("longest", "trained_on", "seeds", "value", "columns"),
    [
        ("t2i-pal", "real training images", 3, 0.5, 3),
        ("zero-shot-normalised", "captions + synthetic images", 3, 0.5, 3),
        ("few-shot-tip-adapter-f", "captions + synthetic images", 3, 1.0, 3),
        ("few-shot-tip-adapter-f", "captions + synthetic images", 4, 1.0, 2),
        ("one-variant-" * 20, "captions + synthetic images", 3, 1.0, 2),
    ],
)
def test_a_table_stays_within_100_columns_and_shows_what_fits(longest, trained_on, seeds, value, columns):
    rows = _rows([longest, "comc"], ["mAP", "CF1_top3", "CF1"], seeds, value, trained_on)
    head, rule, *body = plain_text(rows).splitlines()
    assert max(map(len, (head, rule, *body))) <= 100
    assert [name in head for name in ("mAP", "CF1 top-3", "CF1 calib.")] == [number < columns for number in range(3)]
    assert [line.count("±") for line in body[:2]] == [columns, columns]


def test_a_long_name_keeps_both_its_ends():
    first, second = (plain_text(_rows([f"begin-{'x' * 40}-end-{n}"], ["mAP"], 1)).splitlines()[2] for n in (1, 2))
    assert first.startswith("begin-") and "…" in first and "-end-1 " in first and "-end-2 " in second
    assert plain_text(_rows(["y" * 30], ["mAP"], 1)).splitlines()[2].startswith("y" * 30 + " ")


@pytest.mark.parametrize("width", [7, 8, 30])
def test_a_shortened_name_is_as_wide_as_there_is_room_and_keeps_both_ends(width):
    name = "".join(chr(ord("a") + n % 26) for n in range(100))
    short = shortened(name, width)
    before, after = short.split("…")
    assert (
        len(short) == width and name.startswith(before) and name.endswith(after) and abs(len(before) - len(after)) <= 1
    )
    assert shortened(name[:width], width) == name[:width]


def test_a_mean_is_told_from_a_single_value():
    assert averaged((7,)) == "seed 7"
    assert averaged((0, 1, 2)) == "mean ± sd over seeds 0, 1, 2"
    assert averaged(tuple(range(30))) == "mean ± sd over 30 seeds"


def test_points_have_no_needless_digits():
    assert [point_text(point) for point in (1.0, 0.125, 0.1 + 0.2, 100000, "bce")] == [
        "1",
        "0.125",
        "0.3",
        "100000",
        "bce",
    ]
