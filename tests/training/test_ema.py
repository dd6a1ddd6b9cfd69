from __future__ import annotations

import pytest
import torch
from torch import nn

from richrep.errors import RichrepError
from richrep.training.ema import EmaOptions, make_ema


def network_at(value: float) -> nn.Sequential:
    network = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    nn.init.constant_(network[0].weight, value)
    nn.init.zeros_(network[0].bias)
    nn.init.constant_(network[1].running_mean, 10 * value)
    return network


def weight(ema: nn.Module) -> float:
    return ema.module[0].weight.item()


def test_the_average_of_parameters_by_hand_and_buffers_copied() -> None:
    ema = make_ema(network_at(0.0), EmaOptions(decay=0.75))
    for step, value in enumerate([1.0, 2.0, 4.0], start=1):
        ema.update(network_at(value), step=step)
    # 1; then 0.75 * 1 + 0.25 * 2 = 1.25; then 0.75 * 1.25 + 0.25 * 4
    assert weight(ema) == pytest.approx(1.9375)
    assert float(ema.module[1].running_mean) == 40.0
    assert not ema.module.training


def test_with_warm_up_early_weights_are_soon_forgotten() -> None:
    ema = make_ema(network_at(0.0), EmaOptions(decay=0.9, warmup=True))
    ema.update(network_at(1.0), step=1)
    ema.update(network_at(2.0), step=2)
    decay = 1 - 2 ** (-2 / 3)  # of the second step
    assert weight(ema) == pytest.approx(decay * 1 + (1 - decay) * 2)
    ema.update(network_at(0.0), step=10_001)  # 1 - 10,001^(-2/3) = 0.998: the decay is reached
    assert weight(ema) == pytest.approx(0.9 * (decay * 1 + (1 - decay) * 2))


def test_a_restored_average_goes_on_bit_for_bit() -> None:
    ema = make_ema(network_at(0.3), EmaOptions(decay=0.9, warmup=True))
    ema.update(network_at(0.7), step=1)
    restored = make_ema(network_at(0.0), EmaOptions(decay=0.9, warmup=True))
    restored.load_state_dict(ema.state_dict())
    for step, value in enumerate([0.1, 0.9], start=2):
        ema.update(network_at(value), step=step)
        restored.update(network_at(value), step=step)
    assert all(
        torch.equal(a, b) for a, b in zip(ema.state_dict().values(), restored.state_dict().values(), strict=True)
    )


def test_the_network_itself_is_not_touched() -> None:
    network = network_at(1.0)
    ema = make_ema(network, EmaOptions(decay=0.5))
    ema.update(network_at(3.0), step=2)
    assert network[0].weight.item() == 1.0


def test_a_decay_of_one_is_refused() -> None:
    with pytest.raises(RichrepError, match=r"must be in \[0, 1\), got 1.0"):
        EmaOptions(decay=1.0)
