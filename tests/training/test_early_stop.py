"""When val no longer rises."""

from __future__ import annotations

import pytest

from richrep.training.early_stop import EarlyStop


def evaluations(*accuracies: float) -> list[dict[str, float]]:
    return [{"step": 10.0 * (i + 1), "accuracy": accuracy} for i, accuracy in enumerate(accuracies)]


@pytest.mark.parametrize(
    ("accuracies", "best", "over"),
    [
        ((), None, False),
        ((0.5,), 10, False),
        ((0.5, 0.4), 10, False),
        ((0.5, 0.4, 0.5), 10, True),  # equal is no rise
        ((0.5, 0.4, 0.6), 30, False),
    ],
)
def test_two_evaluations_without_a_rise_end_it(accuracies: tuple[float, ...], best: int | None, over: bool) -> None:
    stop = EarlyStop(patience=2)
    assert (stop.best_step(evaluations(*accuracies)), stop.is_over(evaluations(*accuracies))) == (best, over)
