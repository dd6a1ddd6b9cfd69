"""Schedules of the learning rate against torch's and against t-ReX's golden values."""

from __future__ import annotations

import pytest
import torch

from richrep.heads.lr_factors import constant, cosine, factor_at, step


def torch_factors(make_scheduler, epochs: int) -> list[float]:
    """The factors a torch scheduler, stepped after every epoch, gives to a learning rate of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make_scheduler(optimizer)
    factors = []
    for _ in range(epochs):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


def test_step_is_multi_step_lr() -> None:
    expected = torch_factors(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [8, 16, 24], gamma=0.1), 28)
    assert step(28, (8, 16, 24)) == pytest.approx(expected)


def test_cosine_is_cosine_annealing_to_zero() -> None:
    expected = torch_factors(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 100), 100)
    assert cosine(100) == pytest.approx(expected, abs=1e-12)


def test_the_late_cosine_has_t_rexs_golden_values() -> None:
    late = cosine(100, late=True)  # lr0, lr0, 0.99975 lr0, …, 0.000987 lr0
    assert late[:2] == (1.0, 1.0)
    assert late[2] == pytest.approx(0.99975, abs=5e-6)
    assert late[-1] == pytest.approx(0.000987, abs=5e-7)
    assert late[1:] == cosine(100)[:-1]


def test_sparse_transfers_drops_leave_51_then_50_then_49_epochs() -> None:
    rates = [0.01 * factor for factor in step(150, (51, 101))]
    assert rates == pytest.approx([1e-2] * 51 + [1e-3] * 50 + [1e-4] * 49)


def test_a_factor_comes_from_a_sequence_or_from_a_function() -> None:
    assert factor_at(constant(3), 2) == 1.0
    assert factor_at([1.0, 0.5], 1) == 0.5
    assert factor_at(lambda place: 1 / (1 + place), 3) == 0.25
