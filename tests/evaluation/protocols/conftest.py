"""Real features for the papers' protocols, a third of scikit-learn's digits, and the papers' loop as torch runs it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from richrep.features.feature_set import Block, FeatureSet
from richrep.heads.sgd_grid import SgdRecipe, batches_of_epoch


@pytest.fixture(scope="session")
def pixels() -> FeatureSet:
    """600 images, 64 pixels in [0, 1]."""
    values, labels = load_digits(return_X_y=True)
    features = torch.from_numpy(values[:600]).float() / 16
    return FeatureSet(features, torch.from_numpy(labels[:600]), 10, (Block("pixels", 0, 64),), key="pixels")


@pytest.fixture(scope="session")
def parts() -> tuple[np.ndarray, np.ndarray]:
    """Rows (train, val)."""
    order = np.random.default_rng(0).permutation(600)
    return order[:450], order[450:]


@pytest.fixture
def torch_probe() -> Callable[..., torch.Tensor]:
    """A linear probe as the papers' scripts write it: nn modules, autograd, torch.optim.SGD and MultiStepLR."""
    return _torch_probe


def _torch_probe(
    model: nn.Module,
    features: torch.Tensor,
    labels: torch.Tensor,
    groups: list[dict[str, object]],
    *,
    epochs: int,
    batch_size: int,
    milestones: list[int],
    nesterov: bool,
) -> torch.Tensor:
    """Logits (N, K) of `model` after training on the batches of seed 0, lr 0.01 and momentum 0.9."""
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=nesterov)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
    for epoch in range(epochs):
        for batch in batches_of_epoch(len(labels), SgdRecipe(batch_size=batch_size), seed=0, epoch=epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(features[batch]), labels[batch]).backward()
            optimizer.step()
        scheduler.step()
    return model.eval()(features).detach()
