import pytest

from richrep.reports.columns import (
    EMPTY_NOTE,
    format_count,
    format_images,
    format_interval,
    format_l2,
    format_method,
    format_percent,
    format_seconds,
    one_line,
    print_table,
)
from richrep.reports.tables import make_probe_table, make_results_table


@pytest.mark.parametrize(
    ("fraction", "expected"), [(0.8812, "88.12"), (0.0, "0.00"), (1.0, "100.00"), (0.5, "50.00"), (None, "—")]
)
def test_percent_has_two_decimals(fraction, expected):
    assert format_percent(fraction) == expected


@pytest.mark.parametrize(
    ("low", "high", "sign", "expected"),
    [
        (0.8711, 0.8889, False, "87.1 – 88.9"),
        (0.0, 1.0, False, "0.0 – 100.0"),
        (-0.012, 0.03, True, "-1.2 – +3.0"),
        (None, None, False, "—"),
    ],
)
def test_intervals_have_one_decimal(low, high, sign, expected):
    assert format_interval(low, high, sign=sign) == expected


@pytest.mark.parametrize(("seconds", "expected"), [(0.04, "0.0"), (12.34, "12.3"), (259.4, "259"), (None, "—")])
def test_seconds_have_the_decimals_they_deserve(seconds, expected):
    assert format_seconds(seconds) == expected


def test_other_cells():
    assert (format_count(256), format_count(None)) == ("256", "—")
    assert (format_l2(0.00123), format_l2(1e-6), format_l2(10.0), format_l2(None)) == ("0.0012", "1e-06", "10", "—")
    assert (format_images(4000, 1000, 2000), format_images(None, None, None)) == ("4000+1000/2000", "—")
    assert (format_method("probe", "logistic"), format_method(None, None)) == ("probe/logistic", "—")
    assert one_line("normal-\nization") == "normalization"


def test_the_probe_prints_the_columns_asked_for(five_rows):
    printed = print_table(make_probe_table(five_rows))
    assert [one_line(title) for title in printed.titles] == [
        "representation",
        "dim",
        "val %",
        "test %",
        "95 % interval",
        "l2",
        "normalization",
        "extract/fit (s)",
    ]
    assert printed.cells[-1] == (
        "cat(resnet20+resnet32+resnet44+resnet56)",
        "256",
        "88.60",
        "88.10",
        "86.7 – 89.4",
        "0.0032",
        "block-rms",
        "12.0/1.2",
    )


def test_what_all_rows_share_is_said_once(five_rows):
    printed = print_table(make_probe_table(five_rows))
    assert printed.caption == (
        "dataset cifar10 · images train+val/test 4000+1000/2000 · kind/protocol probe/logistic · seed 0"
    )


def test_what_rows_do_not_share_is_a_column(make_record):
    printed = print_table(make_probe_table([make_record(), make_record(dataset="cifar100", seed=1)]))
    assert {"dataset", "seed"} <= set(printed.titles)
    assert printed.caption == "images train+val/test 4000+1000/2000 · kind/protocol probe/logistic"


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ([0.01, 0.05], "a gain."),
        ([-0.01, 0.05], "no clear difference."),
        ([0.0, 0.05], "no clear difference."),
        ([-0.05, -0.01], "a loss."),
    ],
)
def test_a_concatenation_is_compared_with_its_best_member_in_a_sentence(make_record, interval, verdict):
    printed = print_table(make_probe_table([make_record("a b", gain=0.029, gain_interval=interval)]))
    low, high = (f"{100 * value:+.1f}" for value in interval)
    assert printed.notes == (
        f"cat(a+b): +2.90 points over b, its best member on val (95 % interval {low} – {high}, paired on the same test "
        f"images): {verdict}",
        EMPTY_NOTE,  # this record has no interval of its own
    )


def test_a_gain_without_interval_is_not_judged(make_record):
    printed = print_table(make_probe_table([make_record("a b", gain=-0.01)]))
    assert printed.notes[0] == "cat(a+b): -1.00 points over b, its best member on val."


def test_an_empty_cell_is_a_dash_and_explained(make_record):
    printed = print_table(make_probe_table([make_record(metrics={}, interval=None)]))
    assert printed.cells[0][2:5] == ("—", "—", "—")
    assert printed.notes == (EMPTY_NOTE,)


def test_a_failed_row_is_all_dashes_and_does_not_spoil_the_caption(five_rows):
    printed = print_table(make_probe_table(five_rows, failures={"resnet110": "truncated."}))
    assert printed.cells[-1] == ("resnet110", *["—"] * 7)
    assert printed.caption.startswith("dataset cifar10")
    assert "resnet110 was not measured: truncated." in printed.notes


def test_a_full_table_has_no_note(make_record):
    assert print_table(make_probe_table([make_record(interval=[0.7, 0.9])])).notes == ()


def test_times_that_are_partly_known(make_record):
    times = [{"extract": 3.0}, {"fit": 0.5}, {"select": 1.0, "fit": 0.5}, {}]
    printed = print_table(make_probe_table([make_record(elapsed_s=elapsed_s) for elapsed_s in times]))
    assert [cells[-1] for cells in printed.cells] == ["3.0/—", "—/0.5", "—/1.5", "—"]


def test_results_show_spread_over_seeds_and_the_interval_of_a_single_seed(make_record):
    records = [
        make_record(test=0.8),
        make_record(test=0.9, seed=1),
        make_record("resnet56", 0.7, interval=[0.68, 0.72]),
        make_record("resnet44", 0.6),
    ]
    printed = print_table(make_results_table(records))
    assert printed.titles[0] == "representation"
    assert [(cells[0], cells[-2], cells[-1]) for cells in printed.cells] == [
        ("resnet20", "2", "85.00 ± 7.07"),
        ("resnet56", "1", "70.00 (68.0 – 72.0)"),
        ("resnet44", "1", "60.00"),
    ]


def test_results_name_variants_beside_the_representation(make_record):
    printed = print_table(make_results_table([make_record(), make_record(sha256="cd" * 32)]))
    assert {cells[0] for cells in printed.cells} == {"resnet20 [resnet20@abababab]", "resnet20 [resnet20@cdcdcdcd]"}


def test_results_say_the_mean_gain_of_a_concatenation(make_record):
    records = [make_record("a b", gain=gain, seed=seed) for seed, gain in enumerate([0.01, 0.03])]
    assert print_table(make_results_table(records)).notes == (
        "cat(a+b) on cifar10: +2.00 ± 1.41 points over its best member on val (2 seeds).",
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"protocol": {"name": "knn"}}, {"cat(a+b) on cifar10, probe/logistic: ", "cat(a+b) on cifar10, probe/knn: "}),
        (
            {"num_test": 1000},
            {"cat(a+b) on cifar10, 4000+1000/2000 images: ", "cat(a+b) on cifar10, 4000+1000/1000 images: "},
        ),
        (
            {"precision": "bf16"},
            {"cat(a+b) on cifar10 [fp32]: ", "cat(a+b) on cifar10 [bf16]: "},
        ),
    ],
)
def test_mean_gains_of_one_concatenation_say_what_tells_them_apart(make_record, changes, expected):
    notes = print_table(
        make_results_table([make_record("a b", gain=0.01), make_record("a b", gain=0.03, **changes)])
    ).notes
    assert {note.partition(": ")[0] + ": " for note in notes if "points" in note} == expected


@pytest.mark.parametrize("make_table", [make_probe_table, make_results_table])
def test_an_empty_table_has_titles_and_no_rows(make_table):
    printed = print_table(make_table([]))
    assert printed.titles[0] == "representation"
    assert (printed.cells, printed.notes, printed.caption) == ((), (), "")


def test_a_column_that_no_row_has_is_left_out_and_what_was_chosen_takes_its_place(make_record):
    logistic, knn = make_record(), make_record("b", hyperparameters={"k": 20, "normalization": "none"})
    assert "l2" in print_table(make_probe_table([logistic])).titles
    assert "chosen" not in print_table(make_probe_table([logistic])).titles
    printed = print_table(make_probe_table([knn]))
    assert "l2" not in printed.titles
    assert printed.cells[0][printed.titles.index("chosen")] == "k=20"
    assert {"l2", "chosen"} <= set(print_table(make_probe_table([logistic, knn])).titles)
