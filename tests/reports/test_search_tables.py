"""The printed search, from a record made by hand."""

import io

import pytest
from rich.console import Console

from richrep.errors import RichrepError
from richrep.evaluation.record import BackboneFacts, DatasetFacts, Record
from richrep.reports.search_tables import render_search, sentences

NET = {"family": "f", "architecture": "a", "feature_dim": 64, "parameters": 100, "sparsity": 0.0, "sha256": "0" * 64}


def make_step(members, joined, val, *, gain=None, left=()) -> dict[str, object]:
    step = {"members": members, "joined": joined, "left": list(left), "feature_dim": 64 * len(members)}
    step |= {
        "parameters": 270_000 * len(members),
        "proxy_val": val - 0.01,
        "val": val,
        "val_ci95": [val - 0.1, val + 0.1],
    }
    return step | ({} if gain is None else {"gain": gain, "gain_ci95": [gain - 0.05, gain + 0.05]})


def make_record(num_members: int = 3, *, shortlist=(), chosen=(0, 2), scales=None) -> Record:
    names = [f"net{i}" for i in range(num_members)]
    cka = [[1.0 if i == j else 0.5 / (1 + abs(i - j)) for j in range(num_members)] for i in range(num_members)]
    search = {
        "members": names,
        "chosen": list(chosen),
        "path": [make_step([0], [0], 0.8), make_step([0, 2], [2], 0.85, gain=0.05)],
        "shortlist": list(shortlist),
        "cka": cka,
        "chosen_members": [
            {"member": 0, "importance": 3.0, "marginal_gain": 0.021},
            {"member": 2, "importance": 1.0, "marginal_gain": None},
        ],
        "scales": scales,
        "note": "The val accuracy is optimistic.",
    }
    test = {"accuracy": 0.84, "accuracy_ci95": [0.82, 0.86], "best_member": "net0", "gain_over_best_member": 0.04}
    test |= {
        "gain_over_best_member_ci95": [0.01, 0.07],
        "gain_over_ensemble": -0.01,
        "gain_over_ensemble_ci95": [-0.02, 0],
    }
    return Record(
        kind="search",
        representation="cat(net0+net2)",
        backbones=tuple(BackboneFacts(address=n, name=n, **NET) for n in ("net0", "net2")),
        feature_dim=128,
        dataset=DatasetFacts(
            address="d", name="d", num_classes=10, num_train=8, num_val=2, num_test=5, fingerprint="0"
        ),
        protocol={"name": "logistic"},
        seed=0,
        metrics={"val": {"accuracy": 0.85}, "test": test},
        search=search,
    )


def printed(record: Record, width: int = 100) -> str:
    file = io.StringIO()
    Console(file=file, width=width, markup=False, highlight=False).print(render_search(record, width=width))
    return file.getvalue()


def test_the_path_has_a_row_a_size_and_marks_the_chosen() -> None:
    lines = printed(make_record()).splitlines()
    (one,) = [line for line in lines if "+ net0" in line]
    assert one.split() == ["1", "+", "net0", "64", "0.27", "M", "79.00", "80.00", "70.0", "–", "90.0", "—"]
    (two,) = [line for line in lines if "+ net2" in line]
    assert two.split()[:4] == ["*2", "+", "net2", "128"]
    assert two.split()[-3:] == ["+0.0", "–", "+10.0"]


def test_a_path_that_is_not_nested_says_who_left() -> None:
    record = make_record()
    record.search["path"][1]["left"] = [0]
    assert "- net0" in printed(record)


def test_bars_span_the_intervals_from_the_lowest_to_the_highest() -> None:
    text = printed(make_record())
    assert "from 70.0 to 95.0 %" in text
    bars = [line for line in text.splitlines() if "█" in line]
    assert [line.count("█") for line in bars] == [32, 32]  # 20 of 25 points on 40 characters
    assert bars[0].index("█") + 8 == bars[1].index("█")


def test_redundancy_is_a_matrix_or_where_it_does_not_fit_the_most_alike_member() -> None:
    assert "0.25" in printed(make_record()) and "0.17" in printed(make_record())
    text = printed(make_record(16))
    assert "with the member most like it" in text and "0.17" not in text
    assert all(len(line) <= 80 for line in printed(make_record(16), width=80).splitlines())


def test_shares_of_the_weight_add_up_and_an_unknown_loss_is_a_dash() -> None:
    lines = printed(make_record()).splitlines()
    assert any(line.split() == ["net0", "75.0", "%", "+2.10"] for line in lines)
    assert any(line.split() == ["net2", "25.0", "%", "—"] for line in lines)


def test_sentences_name_every_control_that_was_measured() -> None:
    scales = {"scales": [1.0, 0.0, 2.0], "val_gain_over_subset": 0.01, "test_gain_over_subset": -0.002}
    found = " ".join(sentences(make_record(scales=scales | {"test_gain_over_subset_ci95": [-0.01, 0.01]})))
    assert "Chosen: cat(net0+net2), test 84.00 % (95 % interval 82.0 – 86.0), val 85.00 %." in found
    assert "+4.00 points on test over the best member alone (net0) (95 % interval +1.0 – +7.0, paired)" in found
    assert "-1.00 points on test over the ensemble" in found and "all members" not in found
    assert "Learned scales (net0 x 1, net2 x 2) beat the subset on val: +1.00 points on val, -0.20 on test" in found
    assert found.endswith("The val accuracy is optimistic.")


def test_another_kind_of_record_is_refused() -> None:
    other = make_record().model_copy(update={"search": {}, "kind": "probe"})
    with pytest.raises(RichrepError, match="is of kind 'probe', one of kind 'search' was expected"):
        render_search(other)
