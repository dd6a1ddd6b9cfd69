"""Choosing among trainings: by val accuracy, diverged ones aside, finished ones not repeated."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from richrep.errors import DivergedError
from richrep.evaluation.transfer.cells import ChosenCell, cell_name, choose_cell
from richrep.training.loop_values import TrainingResult
from richrep.training.optimizers import OptimizerOptions
from richrep.training.run_folder import open_run


def result(accuracy: float, nll: float, *, best_step: int | None = None) -> TrainingResult:
    """Scores at step 4; at step 2 others, that count with early stopping alone."""
    early = {"step": 2.0, "accuracy": 0.99, "nll": 0.1}
    evaluations = [early, {"step": 4.0, "accuracy": accuracy, "nll": nll}]
    return TrainingResult(4, best_step, [1.0], evaluations, elapsed_s=2.5)


def choose(folder: Path, results: list[TrainingResult | BaseException], calls: list[int] | None = None) -> ChosenCell:
    def train_cell(index: int) -> TrainingResult:
        if calls is not None:
            calls.append(index)
        outcome = results[index]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    with open_run(folder, "run", {}) as run:
        return choose_cell(run, [f"lr {i}" for i in range(len(results))], train_cell)


def test_the_highest_val_accuracy_of_the_last_step_wins(tmp_path: Path) -> None:
    chosen = choose(tmp_path, [result(0.5, 1.0), result(0.7, 2.0), result(0.6, 0.1)])
    assert (chosen.index, chosen.steps, chosen.scores["nll"]) == (1, 4, 2.0)
    assert chosen.tried == {"lr 0": 0.5, "lr 1": 0.7, "lr 2": 0.6}


@pytest.mark.parametrize(("nlls", "expected"), [((1.0, 0.5), 1), ((0.5, 1.0), 0), ((1.0, 1.0), 0)])
def test_ties_go_to_the_lower_nll_and_then_to_the_first(
    nlls: tuple[float, float], expected: int, tmp_path: Path
) -> None:
    assert choose(tmp_path, [result(0.5, nll) for nll in nlls]).index == expected


def test_with_early_stopping_the_best_step_counts(tmp_path: Path) -> None:
    chosen = choose(tmp_path, [result(0.5, 1.0, best_step=2), result(0.7, 1.0)])
    assert (chosen.index, chosen.steps, chosen.scores["accuracy"]) == (0, 2, 0.99)


def test_a_diverging_cell_is_said_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "richrep"):
        chosen = choose(tmp_path, [DivergedError("The loss is nan at step 3."), result(0.5, 1.0)])
    assert chosen.index == 1 and chosen.tried == {"lr 0": "diverged", "lr 1": 0.5}
    assert "lr 0: The loss is nan at step 3. The other cells go on." in caplog.text


def test_when_all_diverge_the_first_reason_is_the_error(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"All 2 cells diverged; the first: The loss is inf at step 0\."):
        choose(tmp_path, [DivergedError("The loss is inf at step 0."), DivergedError("later")])


def test_finished_cells_are_not_trained_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        choose(tmp_path, [DivergedError("x"), result(0.5, 1.0), KeyboardInterrupt()])
    calls: list[int] = []
    chosen = choose(tmp_path, [result(0.9, 1.0), result(0.9, 1.0), result(0.4, 1.0)], calls)
    assert calls == [2] and chosen.index == 1 and chosen.tried == {"lr 0": "diverged", "lr 1": 0.5, "lr 2": 0.4}


def test_other_numbers_give_other_names() -> None:
    assert cell_name(OptimizerOptions(lr=0.01, weight_decay=1e-4)) == "lr 0.01, weight decay 0.0001"
    assert cell_name(OptimizerOptions(lr=0.01)) != cell_name(OptimizerOptions(lr=0.01000001))
