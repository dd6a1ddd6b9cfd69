"""The numbers of the rich-representations probe, and the whole of it against torch."""

from __future__ import annotations

import torch
from torch import nn

from richrep.evaluation.protocols.protocol import Choice
from richrep.evaluation.protocols.rrl_linear import RRL_LINEAR, rrl_linear


def test_the_weight_decays_are_those_of_the_papers_table() -> None:
    cifar = (1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2)
    assert RRL_LINEAR.for_dataset("cifar10").weight_decays == cifar
    assert RRL_LINEAR.for_dataset("cifar100").weight_decays == cifar
    assert RRL_LINEAR.for_dataset("inat2018").weight_decays == (1e-6, 1e-5, 1e-4)
    assert RRL_LINEAR.for_dataset("imagenet1k").weight_decays == (1e-4, 5e-4)
    assert RRL_LINEAR.for_dataset("anything-else").weight_decays == cifar


def test_it_is_the_papers_loop(pixels, torch_probe) -> None:
    """BN + linear, N(0, 0.01²), nesterov, 28 epochs, ×0.1 at 8, 16, 24, batch 256; BN is not decayed, the bias is."""
    norm, linear = nn.BatchNorm1d(64), nn.Linear(64, 10)
    nn.init.normal_(linear.weight, std=0.01, generator=torch.Generator().manual_seed(0))
    nn.init.zeros_(linear.bias)
    groups = [{"params": norm.parameters()}, {"params": linear.parameters(), "weight_decay": 5e-2}]
    schedule = {"epochs": 28, "batch_size": 256, "milestones": [8, 16, 24], "nesterov": True}
    expected = torch_probe(nn.Sequential(norm, linear), pixels.features, pixels.labels, groups, **schedule)
    chosen = Choice({"lr": 0.01, "weight_decay": 5e-2, "normalization": "none"}, torch.empty(0))
    head = rrl_linear().refit(pixels, chosen)
    torch.testing.assert_close(head.logits(pixels.features), expected, rtol=1e-3, atol=1e-3)
