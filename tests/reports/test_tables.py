import subprocess
import sys
from dataclasses import asdict

import pytest

from richrep.reports.tables import make_probe_table, make_results_table


def row_of(table):
    (row,) = table.rows
    return row


# The probe


def test_hyperparameters_without_a_column_of_their_own_are_one_text(make_record):
    record = make_record(hyperparameters={"k": 20, "temperature": 0.07, "normalization": "none"})
    (row,) = make_probe_table([record]).rows
    assert row.chosen == "k=20 temperature=0.07"
    assert (row.l2, row.normalization) == (None, "none")


def test_a_probe_row_holds_what_the_record_holds(make_record):
    record = make_record("a b", 0.88, val=0.9, interval=[0.866, 0.893], gain=0.02, gain_interval=[0.01, 0.03])
    assert asdict(row_of(make_probe_table([record]))) == {
        "representation": "cat(a+b)",
        "dataset": "cifar10",
        "kind": "probe",
        "protocol": "logistic",
        "seed": 0,
        "num_train": 4000,
        "num_val": 1000,
        "num_test": 2000,
        "feature_dim": 128,
        "val_accuracy": 0.9,
        "test_accuracy": 0.88,
        "test_accuracy_low": 0.866,
        "test_accuracy_high": 0.893,
        "gain": 0.02,
        "gain_low": 0.01,
        "gain_high": 0.03,
        "best_member": "b",
        "num_repeats": 1,
        "l2": 0.0031622,
        "normalization": "block-rms",
        "extract_s": 12.0,
        "select_s": 1.1,
        "fit_s": 0.1,
        "record_id": record.id,
        "chosen": None,
    }


def test_what_was_not_measured_is_none_and_never_zero(make_record):
    record = make_record(metrics={}, hyperparameters={}, elapsed_s={})
    row = row_of(make_probe_table([record]))
    for name in ("val_accuracy", "test_accuracy", "test_accuracy_low", "gain", "l2", "normalization", "extract_s"):
        assert getattr(row, name) is None, name


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_a_measured_zero_and_one_are_kept(make_record, accuracy):
    assert row_of(make_probe_table([make_record(test=accuracy)])).test_accuracy == accuracy
    assert row_of(make_results_table([make_record(test=accuracy)])).test_accuracy == accuracy


def test_probe_rows_keep_the_order_of_the_records(five_rows):
    assert [row.record_id for row in make_probe_table(reversed(five_rows)).rows] == [
        record.id for record in reversed(five_rows)
    ]


def test_a_failure_is_an_empty_row_and_a_note(make_record):
    table = make_probe_table([make_record()], failures={"resnet32": "the checkpoint is truncated."})
    assert [row.representation for row in table.rows] == ["resnet20", "resnet32"]
    assert table.rows[1].test_accuracy is None
    assert table.notes == ("resnet32 was not measured: the checkpoint is truncated.",)


# Results over seeds


def test_two_seeds_become_mean_and_sample_standard_deviation(make_record):
    # mean (0.8 + 0.9) / 2 = 0.85; deviations -0.05 and 0.05: sqrt((0.0025 + 0.0025) / (2 - 1)) = 0.0707
    records = [make_record(test=0.8, val=0.7, interval=[0.7, 0.9]), make_record(test=0.9, val=0.8, seed=1)]
    row = row_of(make_results_table(records))
    assert row.test_accuracy == pytest.approx(0.85)
    assert row.test_accuracy_std == pytest.approx(0.0707, abs=5e-5)
    assert row.val_accuracy == pytest.approx(0.75)
    assert (row.num_seeds, row.seeds) == (2, "0 1")
    assert (row.test_accuracy_low, row.test_accuracy_high) == (None, None)


def test_gains_are_averaged_over_seeds_too(make_record):
    records = [make_record("a b", gain=gain, seed=seed) for seed, gain in enumerate([0.01, 0.03])]
    row = row_of(make_results_table(records))
    assert (row.gain, row.gain_std) == (pytest.approx(0.02), pytest.approx(0.01414, abs=5e-6))


def test_a_single_seed_has_its_own_interval_and_no_spread(make_record):
    row = row_of(make_results_table([make_record(test=0.8, interval=[0.78, 0.82])]))
    assert (row.test_accuracy_low, row.test_accuracy_high, row.test_accuracy_std) == (0.78, 0.82, None)


def test_a_mean_over_seeds_of_which_one_was_not_measured_stays_empty(make_record):
    row = row_of(make_results_table([make_record(), make_record(seed=1, metrics={"val": {"accuracy": 0.7}})]))
    assert (row.test_accuracy, row.test_accuracy_std) == (None, None)
    assert row.val_accuracy == pytest.approx(0.755)


def test_a_seed_measured_again_counts_once_with_its_newest_record(make_record):
    old, new, other = make_record(test=0.1), make_record(test=0.8), make_record(test=0.9, seed=1)
    for records in ([old, new, other], [other, new, old]):
        table = make_results_table(records)
        assert row_of(table).test_accuracy == pytest.approx(0.85)
        assert table.notes == ("1 older record of a seed measured again was left out.",)


def test_results_come_by_data_set_and_the_best_first(make_record):
    records = [
        make_record("a", 0.5, dataset="flowers"),
        make_record("a", 0.8),
        make_record("b", 0.9),
        make_record("c", metrics={}),
    ]
    rows = make_results_table(records).rows
    assert [(row.dataset, row.representation) for row in rows] == [
        ("cifar10", "b"),
        ("cifar10", "a"),
        ("cifar10", "c"),
        ("flowers", "a"),
    ]


def test_the_order_of_the_records_does_not_matter(make_record):
    records = [make_record(name, 0.5 + 0.1 * seed, seed=seed) for name in ("a", "b") for seed in range(3)]
    assert make_results_table(records) == make_results_table(reversed(records))


def test_no_records_make_an_empty_table():
    assert make_probe_table([]).rows == ()
    assert make_results_table([]).rows == ()


def test_reports_do_not_import_torch():
    code = "import sys, richrep.reports.render; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
