import pytest

from richrep.reports.rank import print_agreement_table, print_rank_table
from richrep.reports.render import render_rich

SCORES = ["logme", "h-score", "leep"]


@pytest.fixture
def ranked(make_record):
    """Two networks with scores, the second without a head; and their probes."""

    def one(name, values, num_train=2000):
        record = make_record(name, kind="rank", metrics={"train": values}, hyperparameters={})
        facts = record.dataset.model_copy(update={"num_train": num_train})
        protocol = {"name": "transferability", "scores": SCORES}
        return record.model_copy(update={"protocol": protocol, "dataset": facts})

    no_head = {"leep": None, "leep_reason": "the checkpoint has no head of its own."}
    return [
        one("resnet20", {"logme": 0.5, "h-score": 8.6, "leep": -1.25}),
        one("resnet56", {"logme": 0.25, "h-score": 12.0, **no_head}),
        make_record("resnet20", 0.7, interval=[0.68, 0.72]),
        make_record("resnet56", 0.8, interval=[0.78, 0.82]),
    ]


def test_the_best_probe_comes_first_beside_its_scores(ranked) -> None:
    printed = print_rank_table(ranked)
    titles = ("representation", "dim", "logme", "h-\nscore", "leep", "probe\ntest %", "95 %\ninterval")
    assert printed.titles == titles
    assert printed.cells == (
        ("resnet56", "64", "0.2500", "12.00", "—", "80.00", "78.0 – 82.0"),
        ("resnet20", "64", "0.5000", "8.600", "-1.250", "70.00", "68.0 – 72.0"),
    )
    assert "leep of resnet56: the checkpoint has no head of its own." in printed.notes
    assert printed.caption == "dataset cifar10 · training images 2000"


def test_without_probes_the_first_score_orders_the_rows(ranked) -> None:
    printed = print_rank_table(ranked[:2])
    assert [cells[0] for cells in printed.cells] == ["resnet20", "resnet56"]
    assert "probe\ntest %" not in printed.titles


def test_what_failed_is_a_note(ranked) -> None:
    assert "net was not measured: NaN" in print_rank_table(ranked, failures={"net": "NaN"}).notes


def test_nothing_ranked_is_an_empty_table() -> None:
    assert print_rank_table([], failures={"net": "NaN"}).cells == ()


def test_correlations_have_signs_and_reasons(make_record) -> None:
    agreement = make_record(
        kind="rank-agreement",
        metrics={
            "test": {
                "logme": {"num_networks": 3, "spearman": 0.5, "kendall": -1 / 3, "weighted_kendall": 0.0},
                "leep": {
                    "num_networks": 2,
                    "spearman": None,
                    "kendall": None,
                    "weighted_kendall": None,
                    "reason": "why",
                },
            }
        },
    )
    printed = print_agreement_table(agreement)
    assert printed.cells == (("logme", "3", "+0.500", "-0.333", "+0.000"), ("leep", "2", "—", "—", "—"))
    assert "leep: no rank correlation, why." in printed.notes


def test_it_renders(ranked) -> None:
    assert render_rich(print_rank_table(ranked)).row_count == 2
