"""The one place where test chooses: asked for by name, marked in the record and in every table."""

from __future__ import annotations

import pytest

from richrep.backbones.small_cnn import make_small_cnn
from richrep.errors import DivergedError, RichrepError
from richrep.evaluation.measure_on_test import measure_chosen_on_test
from richrep.evaluation.probe import probe
from richrep.evaluation.protocols import LEGACY_TEST_SELECTION, PROTOCOLS, make_twin
from richrep.evaluation.rank import rank
from richrep.evaluation.record import Record
from richrep.features.memory import FRUGAL
from richrep.reports.render import render_markdown
from richrep.reports.tables import make_probe_table, make_results_table

OPTIONS = {"cache": None, "train_size": 120, "test_size": 60}
NAME = "rrl-linear-legacy-test-selection"


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """Two small random networks on digits, alone and together."""
    twin = LEGACY_TEST_SELECTION[NAME](batch_size=20, epochs=12)
    return probe(
        [make_small_cnn(10, widths=(4, 8)), make_small_cnn(10, widths=(4, 6), seed=1)],
        "digits",
        protocol=twin,
        **OPTIONS,
    )


def test_the_record_has_no_val_and_says_that_it_was_chosen_on_test(records: list[Record]) -> None:
    for record in records:
        assert list(record.metrics) == ["test"]
        assert record.protocol_name == NAME
        assert (record.protocol["selected_on"], record.protocol["epoch"]) == ("test", "best")
        assert "optimistic" in str(record.protocol["note"])
        assert (record.dataset.num_train, record.dataset.num_val) == (120, 0)
        assert record.dataset.val == "none: selected on test, as the paper did"
        assert set(record.hyperparameters) == {"lr", "weight_decay", "normalization", "epochs"}


def test_the_gain_is_over_the_member_that_is_best_on_test_and_the_table_says_so(records: list[Record]) -> None:
    *members, joint = records
    best = max(members, key=lambda record: record.score("test", "accuracy"))
    assert joint.metrics["test"]["best_member"] == best.representation
    for table in (make_probe_table(records), make_results_table(records)):
        text = render_markdown(table)
        assert f"{NAME}: hyper-parameters (and the epoch" in text.replace("\n", " ")
        assert "its best member on test" in text


def test_an_honest_protocols_table_has_no_such_note() -> None:
    honest = PROTOCOLS["rrl-linear"](batch_size=20, epochs=4)
    records = probe([make_small_cnn(10, widths=(4, 8))], "digits", protocol=honest, **OPTIONS)
    assert "optimistic" not in render_markdown(make_probe_table(records))
    assert "selected_on" not in records[0].protocol


def test_what_chooses_on_val_is_refused_here_and_twins_are_refused_elsewhere() -> None:
    nothing = ([], None, None, None, PROTOCOLS["rrl-linear"](), FRUGAL, {})
    with pytest.raises(TypeError, match="only a LegacyTestSelection may choose on test, got SgdLinearProtocol"):
        measure_chosen_on_test(*nothing)
    twin = LEGACY_TEST_SELECTION[NAME](epochs=2)
    with pytest.raises(TypeError, match=f"{NAME} chooses on test; only probe runs it"):
        rank([make_small_cnn(10, widths=(4, 8))], "digits", protocol=twin, **OPTIONS)


def test_the_mean_of_the_members_logits_stands_beside_them_here_too() -> None:
    twin = LEGACY_TEST_SELECTION[NAME](batch_size=20, epochs=4)
    backbones = [make_small_cnn(10, widths=(4, 8)), make_small_cnn(10, widths=(4, 6), seed=1)]
    *_, ensemble, joint = probe(backbones, "digits", protocol=twin, ensemble=True, **OPTIONS)
    assert (ensemble.kind, list(ensemble.metrics), joint.kind) == ("ensemble", ["test"], "probe")
    assert ensemble.protocol["selected_on"] == "test"


@pytest.mark.parametrize(("name", "draws", "num_train"), [("kshot:3", 2, 30), ("vtab1k", 1, 100)])
def test_a_twin_of_few_images_is_chosen_on_test_draw_by_draw(name: str, draws: int, num_train: int) -> None:
    options = {"num_train": 80, "num_val": 20} if name == "vtab1k" else {"repeats": 2}
    twin = make_twin(f"{name}-legacy-test-selection", cs=(0.01, 1.0, 100.0), normalizations=("none",), **options)
    (record,) = probe([make_small_cnn(10, widths=(4, 8))], "digits", protocol=twin, **OPTIONS)
    assert list(record.metrics) == ["test"] and record.protocol["selected_on"] == "test"
    assert (len(record.repeats), record.dataset.num_train, record.dataset.num_val) == (draws, num_train, 0)
    # what choosing among one candidate gives is never better: test chose among them
    lone = [
        make_twin(f"{name}-legacy-test-selection", cs=(c,), normalizations=("none",), **options) for c in twin.base.cs
    ]
    scores = [probe([make_small_cnn(10, widths=(4, 8))], "digits", protocol=one, **OPTIONS)[0] for one in lone]
    best = max(score.score("test", "accuracy") for score in scores)
    assert record.score("test", "accuracy") >= best - 1e-9


def test_views_that_a_twin_would_not_take_are_refused() -> None:
    twin = make_twin("kshot:3-legacy-test-selection")
    with pytest.raises(RichrepError, match=r"has no epochs to take views in. Leave --views out"):
        probe([make_small_cnn(10, widths=(4, 8))], "digits", protocol=twin, views=2, **OPTIONS)


def test_a_representation_on_which_every_cell_diverges_is_reported_and_the_others_measured() -> None:
    backbone = make_small_cnn(10, widths=(4, 8))
    hot = PROTOCOLS["sparse-linear"](lrs=(1e30,), epochs=2, milestones=())
    with pytest.raises(DivergedError, match=r"SGD diverged: lr=1e\+30 weight_decay=0.0005 seed=3 in epoch 0"):
        probe([backbone], "digits", protocol=hot, seed=3, **OPTIONS)
    said: dict[str, str] = {}
    with pytest.raises(RichrepError, match="No representation can be measured; the first: SGD diverged"):
        probe([backbone], "digits", protocol=hot, on_failure=said.__setitem__, **OPTIONS)
    assert list(said) == ["small-cnn-4-8"]


def test_a_diverged_cell_stands_in_the_record_and_under_the_table() -> None:
    partly = PROTOCOLS["sparse-linear"](lrs=(1e30, 0.01), epochs=2, milestones=())
    records = probe([make_small_cnn(10, widths=(4, 8))], "digits", protocol=partly, **OPTIONS)
    assert records[0].hyperparameters["lr"] == 0.01
    assert records[0].solver["diverged"] == ["lr=1e+30 weight_decay=0.0005 seed=0 in epoch 0 (none)"]
    text = render_markdown(make_probe_table(records)).replace("\n", " ")
    assert "small-cnn-4-8, sparse-linear, seed 0: SGD diverged and was left out: lr=1e+30" in text
