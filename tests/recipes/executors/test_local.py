"""Processes of this machine: within the budget, going on after failures, ended by Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from richrep.errors import RichrepError
from richrep.recipes.executors.local import Budget, num_cores, run_local
from richrep.recipes.grid import Cell
from richrep.recipes.store import CellStore


def test_a_cell_that_fails_is_kept_and_the_others_go_on(tmp_path, listing) -> None:
    store, said = CellStore(tmp_path), []
    cells = [listing("no such data"), listing("digits"), listing("cifar")]
    run_local(cells, store, Budget(jobs=1), lambda cell, state: said.append((cell.row, state.state)))
    assert said == [
        *(("no such data", "running"), ("no such data", "failed")),
        *(("digits", "running"), ("digits", "finished")),
        *(("cifar", "running"), ("cifar", "finished")),
    ]
    assert [store.load(cell).state for cell in cells] == ["failed", "finished", "finished"]


def test_no_more_cells_run_at_a_time_than_jobs_and_memory_allow(tmp_path, listing) -> None:
    def most_at_once(cells: list[Cell], budget: Budget) -> int:
        now, most = 0, 0

        def count(cell, state) -> None:
            nonlocal now, most
            now += 1 if state.state == "running" else -1
            most = max(most, now)

        run_local(cells, CellStore(tmp_path), budget, count)
        return most

    cells = [replace(listing(name), memory="3GB") for name in ("digits", "cifar", "dtd")]
    assert most_at_once(cells, Budget(jobs=3)) == 3
    assert most_at_once(cells, Budget(jobs=3, memory=7 * 10**9)) == 2


def test_shares_divide_the_cores_and_the_memory() -> None:
    cell = Cell("trial", "a", "a", "probe", (), "k")
    assert Budget(jobs=2, memory=8 * 10**9).share(cell).memory == 4 * 10**9
    assert Budget(jobs=2, memory=8 * 10**9).share(replace(cell, memory="1GB")).memory == 10**9
    assert Budget(jobs=1).share(cell).threads == num_cores() and Budget(jobs=1).share(cell).memory is None
    assert Budget(jobs=1000).share(cell).threads == 1


def test_a_cell_that_never_fits_is_said_before_anything_runs(tmp_path, listing) -> None:
    cells = [listing("digits"), replace(listing("cifar"), memory="9GB")]
    with pytest.raises(RichrepError, match=r"cifar needs 9GB, more than all cells .* Raise --memory"):
        run_local(cells, CellStore(tmp_path), Budget(1, 8 * 10**9), lambda cell, state: None)
    assert CellStore(tmp_path).load(cells[0]) is None


def test_a_cell_that_another_process_runs_is_left_to_it(tmp_path, listing) -> None:
    store, said = CellStore(tmp_path), []
    with store.claim(listing("digits")):
        run_local([listing("digits")], store, Budget(), lambda cell, state: said.append(state))
    assert said == [None]


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """As in a terminal; jobs that a shell starts in the background ignore it, and so would their children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_children_and_leaves_nothing_half_said(tmp_path, ending) -> None:
    store = CellStore(tmp_path)
    cell = Cell("trial", "demo", "demo", "demo", ("--repeats", "1000", "--out", str(tmp_path)), "k" * 16)
    threading.Timer(0.6, os.kill, (os.getpid(), ending)).start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_local([cell], store, Budget(), lambda cell, state: None)
    assert time.monotonic() - begun < 60  # the demonstration would take hours
    state = store.load(cell)
    assert state is not None and state.state == "running"  # it never finished, so it runs again
    with store.claim(cell) as ours:
        assert ours
