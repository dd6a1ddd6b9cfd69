"""A grid of trainings, each on train and scored on val; the best is trained again on both."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from richrep.errors import DivergedError
from richrep.training.loop_values import TrainingProgress, TrainingResult
from richrep.training.optimizers import OptimizerOptions
from richrep.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CellProgress:
    """A step of one training among those of a run.

    Attributes:
        run: name of the run; cell: which training, e.g. "lr 0.01, weight_decay 0.0001"; number: from 1, of total.
    """

    run: str
    cell: str
    number: int
    total: int
    training: TrainingProgress


OnProgress = Callable[[CellProgress], None]


@dataclass(frozen=True)
class ChosenCell:
    """What selection on val chose.

    Attributes:
        index: of the chosen cell; scores: of its last evaluation on val; steps: it trained for.
        tried: every cell in plain words, with its val accuracy, or "diverged".
        elapsed_s: of training them, over all sessions of a run that was stopped.
    """

    index: int
    scores: dict[str, float]
    steps: int
    tried: dict[str, Any] = field(default_factory=dict)
    elapsed_s: float = 0.0


def choose_cell(
    folder: RunFolder,
    names: Sequence[str],
    train_cell: Callable[[int], TrainingResult],
) -> ChosenCell:
    """Trains every cell that is not done yet, and chooses by val accuracy; ties go to the lower nll, then the first.

    A cell whose loss diverges is left out and said; the others go on.

    Args:
        names: one a cell, as people read them; also their place in the folder.
        train_cell: trains the cell of an index; its evaluations hold "accuracy" and "nll" on val.

    Raises:
        DivergedError: every cell diverged.
    """
    done: list[dict[str, Any]] = []
    for index, name in enumerate(names):
        facts = folder.read_done(key_of(name))
        if facts is None:
            try:
                result = train_cell(index)
                scores = next(s for s in result.evaluations if s["step"] == (result.best_step or result.steps))
                steps = result.best_step or result.steps
                facts = {"cell": name, "scores": dict(scores), "steps": steps, "elapsed_s": result.elapsed_s}
            except DivergedError as error:
                facts = {"cell": name, "diverged": str(error)}
                logger.warning("%s: %s The other cells go on.", name, error)
            folder.write_done(key_of(name), facts)
        done.append(facts)
    finished = [index for index, facts in enumerate(done) if "scores" in facts]
    if not finished:
        raise DivergedError(f"All {len(done)} cells diverged; the first: {done[0]['diverged']}")
    best = max(finished, key=lambda i: (done[i]["scores"]["accuracy"], -done[i]["scores"]["nll"]))
    tried = {facts["cell"]: facts["scores"]["accuracy"] if "scores" in facts else "diverged" for facts in done}
    elapsed_s = sum(facts.get("elapsed_s", 0.0) for facts in done)
    return ChosenCell(best, done[best]["scores"], done[best]["steps"], tried, elapsed_s)


def leave_out(folder: RunFolder, name: str, error: DivergedError) -> None:
    """Notes that the chosen cell diverged, trained again on train and val; `choose_cell` then takes another."""
    logger.warning("%s, trained on train and val: %s The next best on val takes its place.", name, error)
    folder.leave_out(key_of(name), {"cell": name, "diverged": f"trained on train and val: {error}"})


def cell_name(optimizer: OptimizerOptions) -> str:
    """A cell in words: "lr 0.01, weight decay 0.0001". Cells that differ at all have names that do."""
    return f"lr {_number(optimizer.lr)}, weight decay {_number(optimizer.weight_decay)}"


def _number(value: float) -> str:
    """Short where that says all of it."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def key_of(name: str) -> str:
    """A file name for a cell."""
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in name)
