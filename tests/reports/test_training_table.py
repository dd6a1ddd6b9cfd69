import pytest

from richrep.reports.tables import make_results_table
from richrep.reports.training_table import make_training_rows, print_training_table


@pytest.fixture
def tuned(make_record):
    """A function that makes the record of one fine-tuning."""

    def make(test=0.9, *, seed=0, lr=0.01, epochs=20, fit=4.0, kind="finetune", **more):
        return make_record(
            "resnet20",
            test,
            seed=seed,
            kind=kind,
            representation=f"{kind}(resnet20)",
            protocol={
                "name": "default",
                "lrs": [0.01, 0.03],
                "options": {"epochs": epochs, "optimizer": {"name": "sgd"}},
            },
            hyperparameters={"lr": lr, "weight_decay": 0.0001, "steps": 320} | more.pop("chosen", {}),
            elapsed_s={"select": 10.0, "fit": fit, "total": 20.0},
            **more,
        )

    return make


def cells(table):
    return dict(zip(table.titles, table.cells[0], strict=True))


def test_one_seed_has_its_interval_and_what_was_chosen(tuned):
    table = print_training_table([tuned(0.9, val=0.91, interval=[0.88, 0.92])])
    assert (
        table.caption
        == "dataset cifar10 · images train+val/test 4000+1000/2000 · kind/protocol finetune/default · seeds 0"
    )
    row = cells(table)
    assert (row["lr"], row["weight\ndecay"], row["steps"], row["val %"]) == ("0.01", "0.0001", "320", "91.00")
    assert row["test %: mean ± std,\n(95 %) of one seed"] == "90.00 (88.0 – 92.0)"
    assert row["train\n(s)"] == "14.0"  # select 10, fit 4
    assert "normal-\nization" not in row and "chosen" not in row


def test_seeds_become_mean_and_spread(tuned):
    table = print_training_table([tuned(0.9, seed=0), tuned(0.94, seed=1, lr=0.03, fit=8.0)])
    row = cells(table)
    # mean 0.92, sample standard deviation 0.04/sqrt(2) = 0.0283; seconds (14 + 18) / 2
    assert row["test %: mean ± std,\n(95 %) of one seed"] == "92.00 ± 2.83"
    assert (row["lr"], row["steps"], row["train\n(s)"]) == ("0.01, 0.03", "320", "16.0")
    assert "seeds 0 1" in table.caption


def test_other_hyper_parameters_and_failures_are_said(tuned):
    table = print_training_table([tuned(chosen={"temperature": 4.0})], failures={"finetune(b)": "The loss is nan."})
    assert cells(table)["chosen"] == "temperature=4"
    assert "finetune(b) was not measured: The loss is nan." in table.notes


def test_rows_that_differ_in_one_option_are_told_apart_by_it(tuned):
    rows = make_training_rows([tuned(epochs=20), tuned(epochs=40)])
    assert [row.result.variant for row in rows] == ["epochs=20", "epochs=40"]


def test_what_was_not_measured_stays_empty(make_record):
    row = make_training_rows([make_record(kind="distill", hyperparameters={}, elapsed_s={"total": 1.0})])[0]
    assert (row.lr, row.weight_decay, row.steps, row.chosen, row.train_s) == (None,) * 5


def test_trainings_stand_beside_probes_in_the_table_of_results(tuned, make_record):
    table = make_results_table([tuned(0.9), make_record("resnet20", 0.8), tuned(0.93, kind="init-cat")])
    assert [(row.kind, row.protocol, row.variant) for row in table.rows] == [
        ("finetune", "default", ""),
        ("init-cat", "default", ""),
        ("probe", "logistic", ""),
    ]


def test_what_a_joint_model_gains_is_said_with_its_intervals_and_its_protocol(tuned):
    record = tuned(0.9, kind="two-stage")
    gains = {
        "gain_over_best_member": 0.02,
        "gain_over_best_member_ci95": [0.01, 0.03],
        "best_member": "finetune(a)",
        "gain_over_ensemble": -0.005,
        "gain_over_ensemble_ci95": [-0.01, 0.002],
    }
    metrics = record.metrics | {"test": record.metrics["test"] | gains}
    joint = record.model_copy(update={"metrics": metrics, "elapsed_s": record.elapsed_s | {"members": 100.0}})
    table = print_training_table([tuned(0.88), joint])
    assert (
        "two-stage(resnet20), default: +2.00 points over finetune(a), its best member on val (95 % interval "
        "+1.0 – +3.0, paired on the same test images): a gain; -0.50 points over the mean of its members' logits "
        "(95 % interval -1.0 – +0.2, paired on the same test images): no clear difference."
    ) in table.notes
    assert [row.train_s for row in make_training_rows([joint])] == [114.0]
