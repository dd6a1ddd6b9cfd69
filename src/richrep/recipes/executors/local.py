"""Cells as processes of this machine, as many at a time as the budget allows. One thread watches all."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from richrep.errors import RichrepError
from richrep.recipes.executors.process import CellProcess, Share
from richrep.recipes.grid import Cell
from richrep.recipes.store import CellState, CellStore

_LOOK_EVERY_S = 0.05


@dataclass(frozen=True)
class Budget:
    """What all cells together may take.

    Attributes:
        jobs: cells at a time, at most.
        memory: bytes of all cells running; None: not limited. A cell counts as its recipe says, else as memory / jobs.
        restart: commands that would go on where they were begin anew.
    """

    jobs: int = 1
    memory: int | None = None
    restart: bool = False

    def need(self, cell: Cell) -> int:
        """Bytes that count for `cell`; 0 without a limit."""
        if self.memory is None:
            return 0
        from richrep.features.memory import parse_size

        return parse_size(cell.memory) if cell.memory else self.memory // self.jobs

    def share(self, cell: Cell) -> Share:
        """Its part of the cores and of the memory."""
        return Share(max(1, num_cores() // self.jobs), self.need(cell) or None, self.restart)

    def check(self, cells: list[Cell]) -> None:
        """Raises RichrepError for a cell that would never fit."""
        for cell in cells:
            if self.memory is not None and self.need(cell) > self.memory:
                raise RichrepError(
                    f"{cell.label} needs {cell.memory}, more than all cells together may take. Raise --memory."
                )


def num_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Running:
    process: CellProcess
    leave: ExitStack  # ends the process and gives the cell's lock back


def run_local(
    cells: list[Cell], store: CellStore, budget: Budget, on_change: Callable[[Cell, CellState | None], None]
) -> None:
    """Runs all `cells`; one that fails is kept as failed, and the others go on.

    Ctrl-C and SIGTERM end the running cells; they count as never finished.

    Args:
        on_change: called when a cell starts ("running") and ends; with None for one that another process is running.

    Raises:
        RichrepError: a cell that does not fit the budget; said before anything runs.
    """
    budget.check(cells)
    waiting, running = list(cells), list[_Running]()
    with _sigterm_as_interrupt(), ExitStack() as everything:
        try:
            while waiting or running:
                while waiting and _fits(waiting[0], running, budget):
                    started = _start(waiting.pop(0), store, budget, on_change)
                    if started is not None:
                        everything.push(started.leave)
                        running.append(started)
                for ended in [one for one in running if not one.process.poll()]:
                    running.remove(ended)
                    state = ended.process.finish()
                    ended.leave.close()
                    on_change(ended.process.cell, state)
                time.sleep(_LOOK_EVERY_S)
        finally:
            for one in running:  # after an interrupt: all are asked to end before each is waited for
                one.process.interrupt()


def _fits(cell: Cell, running: list[_Running], budget: Budget) -> bool:
    taken = sum(budget.need(one.process.cell) for one in running)
    return len(running) < budget.jobs and (budget.memory is None or taken + budget.need(cell) <= budget.memory)


def _start(
    cell: Cell, store: CellStore, budget: Budget, on_change: Callable[[Cell, CellState | None], None]
) -> _Running | None:
    with ExitStack() as leave:
        if not leave.enter_context(store.claim(cell)):
            on_change(cell, None)
            return None
        process = leave.enter_context(CellProcess(cell, store, budget.share(cell)))
        on_change(cell, process.state)
        return _Running(process, leave.pop_all())


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
