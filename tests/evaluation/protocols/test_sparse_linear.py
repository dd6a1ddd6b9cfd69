"""The whole of the sparse-transfer probe against torch."""

from __future__ import annotations

import torch
from torch import nn

from richrep.evaluation.protocols.sparse_linear import sparse_linear


def test_it_is_the_papers_loop(pixels, parts, torch_probe) -> None:
    """nn.Linear as torch makes it, momentum 0.9, weight decay 5e-4 on weight and bias, batch 64, 150 epochs."""
    train = pixels.take(parts[0])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        linear = nn.Linear(64, 10)
    groups = [{"params": linear.parameters(), "weight_decay": 5e-4}]
    schedule = {"epochs": 150, "batch_size": 64, "milestones": [51, 101], "nesterov": False}
    torch_probe(linear, train.features, train.labels, groups, **schedule)
    choice = sparse_linear().select(pixels, *parts)
    assert choice.hyperparameters == {"lr": 0.01, "weight_decay": 5e-4, "normalization": "none"}
    expected = linear(pixels.features[parts[1]]).detach()
    torch.testing.assert_close(choice.val_logits, expected, rtol=1e-3, atol=1e-3)
