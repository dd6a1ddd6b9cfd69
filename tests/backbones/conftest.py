"""Fixtures of the backbone tests: the shared real weights, and small checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from richrep.backbones.families.cifar_resnet import CifarResNet

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"the shared real data and weights are not at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def resnet20_tensors() -> dict[str, torch.Tensor]:
    """A complete CIFAR ResNet-20 with 10 classes, in the names of its public checkpoints."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trunk, head = CifarResNet(3), torch.nn.Linear(64, 10)
    return {**trunk.state_dict(), **head.state_dict(prefix="linear.")}
