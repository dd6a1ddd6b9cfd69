"""The table of methods, by hand."""

from __future__ import annotations

import pytest

from richrep.evaluation.record import DatasetFacts
from richrep.reports.method_plot import write_plot
from richrep.reports.method_table import Measured, Place, Published, make_method_table, print_method_table
from richrep.reports.render import render_markdown


@pytest.fixture
def measure(make_record):
    """Records of one accuracy each: `measure(0.8, 0.9, size=500)` has seeds 0 and 1."""

    def make(*accuracies, size=500, dataset="cifar10", members="resnet20", seeds=None, **changes):
        data = {"address": dataset, "name": dataset, "num_classes": 10, "num_train": size - size // 5}
        data |= {"num_val": size // 5, "num_test": 100, "fingerprint": "cd"}
        return tuple(
            make_record(members, accuracy, seed=seed, **changes).model_copy(update={"dataset": DatasetFacts(**data)})
            for seed, accuracy in zip(seeds or range(len(accuracies)), accuracies, strict=True)
        )

    return make


def test_means_spreads_and_differences_by_hand(measure) -> None:
    # (0.80 + 0.84) / 2 = 0.82; sample deviation 0.02 * sqrt(2) = 0.0283
    erm = Measured("ERM", "accuracy", (*measure(0.80, 0.84), *measure(0.90, size=2000)))
    cat = Measured("CAT2", "accuracy", measure(0.85, members="resnet20 resnet32"))
    published = [
        Published(("ERM",), "accuracy", 0.81, std=0.005, train_size=500),
        Published(("CAT2",), "accuracy", 0.90, tolerance=0.01, train_size=500, source="table 1"),
    ]
    table = make_method_table([erm, cat], published)
    assert table.places == (Place("cifar10", 500), Place("cifar10", 2000))
    assert table.rows[0].scores[Place("cifar10", 500)].mean == pytest.approx(0.82)
    assert table.rows[0].scores[Place("cifar10", 500)].std == pytest.approx(0.02 * 2**0.5)
    assert table.rows[0].elapsed_s == pytest.approx(13.3)  # of one run
    printed = print_method_table(table)
    assert printed.titles == ("method", "500", "published\n(difference)", "2,000", "one run\n(s)")
    assert printed.cells == (
        ("ERM", "82.00 ± 2.83", "81.00 ± 0.50 (+1.00)", "90.00", "13.3"),
        ("CAT2", "85.00", "90.00 (-5.00)", "—", "13.3"),
    )
    assert printed.notes[:2] == (
        "CAT2: 85.00 differs from the published 90.00 by more than 1.00.",
        "Published: table 1.",
    )
    assert printed.caption == "dataset cifar10 · test accuracy %, mean ± std of 1 to 2 runs · columns: training images"


def test_a_row_that_was_not_measured_shows_the_published_number_alone(measure) -> None:
    erm = Measured("ERM", "accuracy", measure(0.8))
    table = make_method_table([erm, Measured("CAT2", "accuracy")], [Published(("CAT2",), "accuracy", 0.9)])
    assert print_method_table(table).cells[1] == ("CAT2", "—", "90.00", "—")
    alone = print_method_table(
        make_method_table([Measured("CAT2", "accuracy")], [Published(("CAT2",), "accuracy", 0.9)])
    )
    assert alone.titles == ("method", "test", "published\n(difference)") and alone.cells == (("CAT2", "—", "90.00"),)


def test_a_published_mean_is_compared_when_all_its_data_sets_are_there(measure) -> None:
    published = [Published(("a",), "accuracy", 0.75, num_datasets=2)]
    one = (*measure(0.6, 0.8, dataset="dtd"),)
    partly = print_method_table(make_method_table([Measured("a", "accuracy", one)], published))
    assert partly.cells[0][1:4] == ("70.00 ± 14.14", "—", "75.00")
    both = (*one, *measure(0.9, 0.9, dataset="pets"))
    # (0.7 + 0.9) / 2 = 0.8; the spread of the mean is sqrt(0.1414^2 + 0) / 2 = 0.0707
    whole = print_method_table(make_method_table([Measured("a", "accuracy", both)], published))
    assert whole.titles[:5] == ("method", "dtd", "pets", "mean", "published\n(difference)")
    assert whole.cells[0][1:5] == ("70.00 ± 14.14", "90.00 ± 0.00", "80.00 ± 7.07", "75.00 (+5.00)")


def test_a_seed_measured_again_counts_once_and_members_count_each(measure) -> None:
    records = (*measure(0.1), *measure(0.5), *measure(0.7, sha256="ef" * 32))
    table = make_method_table([Measured("each", "accuracy", records)])
    score = table.rows[0].scores[Place("cifar10", 500)]
    assert (score.mean, score.count) == (pytest.approx(0.6), 2)


def test_scores_that_are_no_fractions_are_printed_as_they_are_and_named(measure) -> None:
    metrics = {"test": {"accuracy": 0.5, "log_odds": 1.25}}
    row = Measured("t-ReX", "log_odds", measure(0.5, metrics=metrics))
    printed = print_method_table(make_method_table([row, Measured("b", "accuracy", measure(0.5))]))
    assert printed.cells[0][:2] == ("t-ReX (log_odds)", "1.250") and printed.cells[1][:2] == ("b (accuracy)", "50.00")


def test_a_number_of_a_row_that_is_not_there_is_said(measure) -> None:
    table = make_method_table([Measured("a", "accuracy", measure(0.5))], [Published(("b",), "accuracy", 0.9)])
    assert table.notes == ("No row for the published b: 90.00.",)


def test_the_markdown_table_holds_the_same_cells(measure) -> None:
    printed = print_method_table(make_method_table([Measured("a|b", "accuracy", measure(0.5))]))
    assert render_markdown(printed).splitlines()[2:] == [
        "| method | 500 | one run (s) |",
        "| :--- | ---: | ---: |",
        "| a\\|b | 50.00 | 13.3 |",
    ]


def test_a_row_that_was_chosen_on_test_says_so_in_table_text_and_plot(measure, tmp_path) -> None:
    honest = Measured("ERM", "accuracy", measure(0.8))
    twin = {"name": "logistic-legacy-test-selection", "selected_on": "test", "note": "optimistic"}
    chosen = Measured("CAT2", "accuracy", tuple(r.model_copy(update={"protocol": twin}) for r in measure(0.9)))
    table = make_method_table([honest, chosen])
    printed = print_method_table(table)
    assert [cells[0] for cells in printed.cells] == ["ERM", "CAT2 (chosen on TEST)"]
    assert printed.notes[0] == "logistic-legacy-test-selection: optimistic"
    assert "CAT2 (chosen on TEST)" in render_markdown(printed) and "optimistic" in render_markdown(printed)
    write_plot(table, tmp_path / "plot.svg")
    with pytest.MonkeyPatch.context() as patch:
        labels: list[str] = []
        patch.setattr("matplotlib.axes.Axes.errorbar", lambda axes, *args, label, **kw: labels.append(label))
        patch.setattr("matplotlib.figure.Figure.legend", lambda *args, **kw: None)
        write_plot(table, tmp_path / "plot.svg")
    assert labels == ["ERM", "CAT2 (chosen on TEST)"]
