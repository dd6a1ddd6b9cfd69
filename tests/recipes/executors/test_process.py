"""The command line of one cell, and what is kept of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from richrep.recipes.executors.process import Share, command_line, run_cell
from richrep.recipes.grid import Cell
from richrep.recipes.store import CellStore

TAKES = frozenset({"out", "json", "num-workers", "memory-limit"})


def test_what_the_run_decides_is_added_where_the_command_takes_it_and_the_recipe_is_silent() -> None:
    cell = Cell("trial", "a", "a", "probe", ("--num-workers", "3", "--", "x"), "k", takes=TAKES)
    assert command_line(cell, Path("runs"), Share(2, 1_500_000_000)) == [
        *("probe", "--num-workers", "3", "--out", "runs", "--memory-limit", "1500MB", "--", "x"),
    ]
    trained = Cell("trial", "a", "a", "finetune", (), "k", takes=TAKES | {"restart"})
    assert command_line(trained, Path("runs"), Share(2, restart=True))[-1] == "--restart"
    assert "--restart" not in command_line(trained, Path("runs"), Share(2))
    assert command_line(Cell("trial", "a", "a", "list", ("datasets",), "k"), Path("runs"), Share(2)) == [
        *("list", "datasets")
    ]


def test_a_failed_cell_keeps_the_end_of_what_it_said(tmp_path, listing) -> None:
    store = CellStore(tmp_path)
    assert run_cell(listing("no such data"), tmp_path, Share(1)) == "failed"
    state = store.load(listing("no such data"))
    assert state is not None and state.exit_code == 2 and state.record_ids == ()
    assert state.error == "Error: No datasets match 'no such data'. List all with: richrep list datasets"
    assert (state.elapsed_s or 0) > 0 and state.command[-3:] == ("list", "datasets", "no such data")


def test_a_finished_cell_is_left_alone_and_so_is_one_that_is_being_run(tmp_path, listing) -> None:
    store, cell = CellStore(tmp_path), listing("digits")
    assert run_cell(cell, tmp_path, Share(1)) == "finished"
    first = store.load(cell)
    assert run_cell(cell, tmp_path, Share(1)) == "finished" and store.load(cell) == first
    running = replace(first, state="running")
    store.save(cell, running)
    with store.claim(cell):
        assert run_cell(cell, tmp_path, Share(1)) == "running" and store.load(cell) == running
