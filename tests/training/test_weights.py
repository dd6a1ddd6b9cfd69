"""The weights that are evaluated: averages, for the time of an evaluation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from richrep.training.ema import EmaOptions, make_ema
from richrep.training.optimizers import OptimizerOptions, make_optimizer
from richrep.training.parameter_groups import make_parameter_groups
from richrep.training.weights import Weights


def trained(name: str, *, ema: float | None, steps: int = 3) -> Weights:
    """weight 1, its gradient always 1, lr 0.1."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.ones_(module.weight)
    groups = make_parameter_groups(None, module, lr=0.1, weight_decay=0.0)
    optimizer = make_optimizer(groups, OptimizerOptions(name, momentum=0.9 if "free" in name else 0.0))
    average = make_ema(module, EmaOptions(ema)) if ema is not None else None
    for step in range(1, steps + 1):
        module.weight.grad = torch.ones(1, 1)
        optimizer.step()
        if average is not None:
            average.update(module, step=step)
    return Weights(module, optimizer, nn.Module.train, average, calibrate=None)


@pytest.mark.parametrize(
    ("name", "ema", "inside"),
    [
        ("sgd", None, 0.7),
        ("sgd", 0.5, 0.775),  # 0.9, then 0.85 with 0.8, then 0.775 with 0.7
        ("schedulefree-sgd", None, 0.8),  # the mean of 0.9, 0.8, 0.7
    ],
)
def test_the_average_is_there_while_evaluating_and_kept_at_the_end(name: str, ema: float | None, inside: float) -> None:
    weights = trained(name, ema=ema)
    module = weights.objective
    before = module.weight.item()
    with weights.evaluated():
        assert module.weight.item() == pytest.approx(inside) and not module.training
    assert module.weight.item() == before and module.training
    weights.leave(None)
    assert module.weight.item() == pytest.approx(inside) and not module.training


def test_weights_that_were_kept_earlier_are_what_is_left() -> None:
    weights = trained("sgd", ema=None)
    kept = weights.copy()
    with torch.no_grad():
        weights.objective.weight.fill_(5.0)
    weights.leave(kept)
    assert weights.objective.weight.item() == pytest.approx(0.7)
