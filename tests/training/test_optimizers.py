from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from richrep.errors import RichrepError
from richrep.training.optimizers import (
    OPTIMIZERS,
    OptimizerOptions,
    evaluation_point,
    go_to_evaluation_point,
    is_schedule_free,
    make_optimizer,
)
from richrep.training.parameter_groups import make_parameter_groups
from richrep.training.schedules import Schedule, set_learning_rates


def optimizer_of(network: nn.Module, **options: object) -> torch.optim.Optimizer:
    numbers = OptimizerOptions(**options)  # type: ignore[arg-type]
    groups = make_parameter_groups(network, None, lr=numbers.lr, weight_decay=numbers.weight_decay)
    return make_optimizer(groups, numbers)


def one_weight(value: float) -> nn.Linear:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, value)
    return network


def step(optimizer: torch.optim.Optimizer, network: nn.Linear, gradient: float) -> None:
    network.weight.grad = torch.full_like(network.weight, gradient)
    optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_reaches_the_minimum_of_a_parabola(name: str) -> None:
    network = one_weight(3.0)
    optimizer = optimizer_of(network, name=name, lr=0.1 if "sgd" in name else 0.3)
    for _ in range(200):
        step(optimizer, network, 2 * (network.weight.item() - 1.0))  # of (w - 1)^2
    with evaluation_point(optimizer, network, None):
        assert network.weight.item() == pytest.approx(1.0, abs=0.05)


def test_sgd_with_nesterov_and_weight_decay_by_hand() -> None:
    network = one_weight(2.0)
    optimizer = optimizer_of(network, name="sgd", lr=0.1, momentum=0.5, nesterov=True, weight_decay=0.25)
    step(optimizer, network, 1.0)
    # g = 1 + 0.25 * 2 = 1.5; momentum 1.5; step 1.5 + 0.5 * 1.5 = 2.25; 2 - 0.1 * 2.25
    assert network.weight.item() == pytest.approx(1.775)


def test_adamw_decays_the_weights_apart_from_the_gradient_by_hand() -> None:
    network = one_weight(2.0)
    step(optimizer_of(network, name="adamw", lr=0.1, weight_decay=0.25, eps=0.0), network, 5.0)
    # 2 (1 - 0.1 * 0.25) = 1.95; the first step of Adam is lr times the sign of the gradient
    assert network.weight.item() == pytest.approx(1.85)


def test_schedule_free_adamw_takes_the_published_steps() -> None:
    lr, (beta1, beta2), eps, decay, power = 0.1, (0.8, 0.9), 1e-8, 0.05, 0.75
    network = one_weight(2.0)
    optimizer = optimizer_of(
        network,
        name="schedulefree-adamw",
        lr=lr,
        betas=(beta1, beta2),
        eps=eps,
        weight_decay=decay,
        averaging_power=power,
    )
    y = z = 2.0
    v = weights = 0.0
    for t, gradient in enumerate([1.0, -0.5, 2.0, 0.3], start=1):
        step(optimizer, network, gradient)
        # Defazio et al. as the library writes it: y and z stored, x = lerp(y, z, 1 - 1/beta1)
        v = beta2 * v + (1 - beta2) * gradient**2
        g = gradient / (math.sqrt(v / (1 - beta2**t)) + eps) + decay * y
        weight = t**power * lr**2
        weights += weight
        c = weight / weights
        y = y + c * (z - y) + lr * (beta1 * (1 - c) - 1) * g
        z = z - lr * g
        assert network.weight.item() == pytest.approx(y, rel=1e-5)
    with evaluation_point(optimizer, network, None):
        assert network.weight.item() == pytest.approx(y + (1 - 1 / beta1) * (z - y), rel=1e-5)


def test_the_evaluation_point_of_schedule_free_sgd_is_the_mean_of_its_steps() -> None:
    network = one_weight(1.0)
    optimizer = optimizer_of(network, name="schedulefree-sgd", lr=0.1)
    for _ in range(5):
        step(optimizer, network, 1.0)
    # with gradient 1: z = 0.9, 0.8, 0.7, 0.6, 0.5; x is their mean, y = 0.9 x + 0.1 z
    assert network.weight.item() == pytest.approx(0.9 * 0.7 + 0.1 * 0.5, rel=1e-5)
    go_to_evaluation_point(optimizer, network, None)
    assert network.weight.item() == pytest.approx(0.7, rel=1e-5)


def test_a_warm_up_by_schedule_is_the_warm_up_of_the_schedule_free_library() -> None:
    from schedulefree import AdamWScheduleFree

    ours, theirs = one_weight(1.0), one_weight(1.0)
    optimizer = optimizer_of(ours, name="schedulefree-adamw", lr=0.1)
    library = AdamWScheduleFree(theirs.parameters(), lr=0.1, warmup_steps=3)
    library.train()
    for i in range(6):
        set_learning_rates(optimizer, Schedule("constant", warmup_steps=3), i, steps_per_epoch=6, num_steps=6)
        step(optimizer, ours, float(i) - 2.5)
        step(library, theirs, float(i) - 2.5)
    assert ours.weight.item() == pytest.approx(theirs.weight.item(), rel=1e-6)


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def train(network: nn.Sequential, optimizer: torch.optim.Optimizer, *, look: bool) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        images = torch.randn(8, 3, generator=generator)
        optimizer.zero_grad()
        network(images).square().mean().backward()
        optimizer.step()
        if look:
            with evaluation_point(optimizer, network, [images]):
                network(images)  # also moves the statistics of the norm once more
    return [tensor.clone() for tensor in network.state_dict().values()]


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name.startswith("schedulefree")])
def test_looking_at_the_evaluation_point_changes_no_bit_of_the_training(name: str) -> None:
    runs = []
    for look in (False, True):
        network = make_network()
        runs.append(train(network, optimizer_of(network, name=name, lr=0.1), look=look))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_at_the_evaluation_point_norms_have_the_statistics_of_its_weights() -> None:
    network = make_network()
    optimizer = optimizer_of(network, name="schedulefree-sgd", lr=0.5)
    train(network, optimizer, look=False)
    images = torch.randn(16, 3)
    with evaluation_point(optimizer, network, [images]):
        torch.testing.assert_close(network[1].running_mean, network[0](images).mean(0))
    assert not torch.allclose(network[1].running_mean, network[0](images).mean(0), atol=1e-3)


def test_other_optimizers_are_always_at_their_evaluation_point() -> None:
    network = make_network()
    optimizer = optimizer_of(network, name="sgd", lr=0.1)
    before = [tensor.clone() for tensor in network.state_dict().values()]
    with evaluation_point(optimizer, network, [torch.randn(4, 3)]):
        assert all(torch.equal(a, b) for a, b in zip(before, network.state_dict().values(), strict=True))
    assert not is_schedule_free(optimizer)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_restored_optimizer_goes_on_bit_for_bit(name: str) -> None:
    network, other = make_network(), make_network()
    optimizer, restored = (optimizer_of(each, name=name, lr=0.1) for each in (network, other))
    train(network, optimizer, look=True)
    other.load_state_dict(network.state_dict())
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # torch shares the tensors
    runs = [train(network, optimizer, look=False), train(other, restored, look=False)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "sdg"}, "Unknown optimizer 'sdg'. Did you mean 'sgd'"),
        ({"lr": -0.1}, "lr must be a number >= 0, got -0.1"),
        ({"weight_decay": float("nan")}, "weight_decay must be a number >= 0, got nan"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"betas": (0.9, 1.0)}, r"every beta must be in \[0, 1\), got 1.0"),
        ({"name": "schedulefree-sgd", "momentum": 0.0}, "schedulefree-sgd needs a momentum .* above 0"),
        ({"name": "adamw", "nesterov": True}, "nesterov needs sgd with a momentum above 0, got adamw"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(RichrepError, match=message):
        OptimizerOptions(**options)  # type: ignore[arg-type]
