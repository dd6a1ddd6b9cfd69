"""Fixtures of the backbone tests: the shared real weights, and small checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from richrep.backbones.families.cifar_resnet import CifarResNet

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"the shared real data and weights are not at {SHARED}")
    return SHARED


def randomise(model: nn.Module) -> nn.Module:
    """Statistics and one-dimensional weights away from 0 and 1, so that tensors that are swapped or left out show."""
    generator = torch.Generator().manual_seed(0)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) * 0.1 + 0.05)
        elif name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
    return model.eval()


@pytest.fixture(name="randomise", scope="session")
def give_randomise() -> Callable[[nn.Module], nn.Module]:
    return randomise


@pytest.fixture(scope="session")
def resnet20_tensors() -> dict[str, torch.Tensor]:
    """A complete CIFAR ResNet-20 with 10 classes, in the names of its public checkpoints."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trunk, head = CifarResNet(3), nn.Linear(64, 10)
    return {**trunk.state_dict(), **head.state_dict(prefix="linear.")}
