"""Which records make which row, and what is published of it."""

from __future__ import annotations

import json
import logging

import pytest

from richrep.evaluation.record import Record
from richrep.recipes.grid import Cell
from richrep.recipes.outcome import load_records_of, measured, published
from richrep.recipes.recipe import load_recipe
from richrep.recipes.store import CellState, CellStore


def record(name: str, members: str, kind: str = "probe", protocol: str = "logistic") -> Record:
    backbone = {"family": "f", "architecture": "a", "feature_dim": 1, "parameters": 1, "sparsity": 0.0, "sha256": "ab"}
    sizes = {"num_classes": 2, "num_train": 8, "num_val": 2, "num_test": 5, "fingerprint": "cd"}
    return Record(
        id=name,
        kind=kind,
        representation=f"{kind} {members}",
        backbones=[{"address": member, **backbone} for member in members.split("+")],
        feature_dim=1,
        dataset={"address": "digits", "name": "digits", **sizes},
        protocol={"name": protocol},
        seed=0,
        metrics={"test": {"accuracy": 0.5}},
    )


RECORDS = {
    "id1": record("id1", "a"),
    "id2": record("id2", "b"),
    "id3": record("id3", "a+b"),
    "id4": record("id4", "a", "own-head"),
    "id5": record("id5", "a+b", protocol="ridge"),
}


def rows_of(store: CellStore, rows: dict[str, tuple[str, ...]], ids: tuple[str, ...] = tuple(RECORDS)):
    cell = Cell("trial", "CAT2", "CAT2", "probe", (), "k" * 16, rows=tuple(rows.items()))
    store.save(cell, CellState("finished", "CAT2", record_ids=ids))
    groups = measured([cell], {"trial": "accuracy"}, store, RECORDS)
    return {group.row: [record.id for record in group.records] for group in groups}


def test_rows_take_records_of_one_backbone_of_several_or_those_that_match(tmp_path) -> None:
    rows = {
        "each": ("alone",),
        "both": ("together", "protocol=logistic"),
        "heads": ("kind=own-head",),
        "ridge": ("ridge",),
        "none": ("kind=finetune",),
    }
    assert rows_of(CellStore(tmp_path), rows) == {
        "each": ["id1", "id2"],
        "both": ["id3"],
        "heads": ["id4"],
        "ridge": ["id5"],
        "none": [],
    }


def test_without_rows_every_representation_is_one(tmp_path) -> None:
    assert rows_of(CellStore(tmp_path), {}, ("id1",)) == {"CAT2": ["id1"]}
    assert rows_of(CellStore(tmp_path), {}, ("id1", "id3")) == {"CAT2: probe a": ["id1"], "CAT2: probe a+b": ["id3"]}


def test_records_are_read_by_their_ids_and_what_is_gone_is_said(tmp_path, caplog) -> None:
    cell, store = Cell("trial", "a", "a seed=0", "probe", (), "k" * 16), CellStore(tmp_path)
    store.save(cell, CellState("finished", "a", record_ids=("id1", "id2")))
    (tmp_path / "id1.json").write_text(RECORDS["id1"].to_json())
    (tmp_path / "other.json").write_text(json.dumps({"no": "record"}))
    with caplog.at_level(logging.WARNING, logger="richrep"):
        assert list(load_records_of([cell], store)) == ["id1"]
    assert "id2.json of a seed=0 cannot be read" in caplog.text and "other.json" not in caplog.text


def test_a_number_is_of_the_rows_of_its_cell_or_of_the_row_it_names(write) -> None:
    text = """
source: {paper: A paper, table: table 2}
command: probe
cells:
  - {name: a, expected: {value: 0.5}}
  - {name: b, rows: {c: alone, d: together}, expected: [{value: 0.6, row: d, std: 0.1, source: figure 1}]}
expected: {value: 0.7, dataset: digits, num-datasets: 3}
"""
    whole, a, d = published([load_recipe(write(text))])
    assert (whole.rows, whole.value, whole.dataset, whole.num_datasets) == (("a", "c", "d"), 0.7, "digits", 3)
    assert (a.rows, a.value, a.source) == (("a",), 0.5, "A paper, table 2")
    assert (d.rows, d.std, d.source) == (("d",), pytest.approx(0.1), "figure 1")


def test_the_best_on_val_of_records_that_were_chosen_on_test_is_the_best_on_test(tmp_path) -> None:
    def scored(name: str, protocol: dict[str, str], **scores: float) -> Record:
        metrics = {part: {"accuracy": value} for part, value in scores.items()}
        return record(name, "a").model_copy(update={"protocol": protocol, "metrics": metrics})

    twin = {"name": "logistic-legacy-test-selection", "selected_on": "test"}
    for records, best in (
        ([scored("x", twin, test=0.5), scored("y", twin, test=0.6)], "y"),
        ([scored("x", {"name": "l"}, val=0.7, test=0.1), scored("y", {"name": "l"}, val=0.6, test=0.9)], "x"),
    ):
        found = {one.id: one for one in records}
        cell = Cell("trial", "a", "a", "probe", (), "k" * 16, rows=(("best", ("alone", "best-on-val")),))
        store = CellStore(tmp_path / best)
        store.save(cell, CellState("finished", "a", record_ids=tuple(found)))
        (group,) = measured([cell], {"trial": "accuracy"}, store, found)
        assert [one.id for one in group.records] == [best]
