"""The whole of SwAV's probe against torch."""

from __future__ import annotations

import torch
from torch import nn

from richrep.evaluation.protocols.protocol import Choice
from richrep.evaluation.protocols.swav_linear import swav_linear
from richrep.heads.sgd_grid import SgdRecipe, batches_of_epoch


def test_it_is_the_papers_loop(pixels) -> None:
    """N(0, 0.01²), momentum 0.9 without Nesterov, weight decay 1e-6, lr 0.3 along half a cosine, 100 epochs of 256."""
    linear = nn.Linear(64, 10)
    nn.init.normal_(linear.weight, std=0.01, generator=torch.Generator().manual_seed(0))
    nn.init.zeros_(linear.bias)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.3, momentum=0.9, weight_decay=1e-6)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100, eta_min=0)
    for epoch in range(100):
        for batch in batches_of_epoch(len(pixels.labels), SgdRecipe(batch_size=256), seed=0, epoch=epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(linear(pixels.features[batch]), pixels.labels[batch]).backward()
            optimizer.step()
        schedule.step()
    chosen = Choice({"lr": 0.3, "weight_decay": 1e-6, "normalization": "none"}, torch.empty(0))
    head = swav_linear().refit(pixels, chosen)
    torch.testing.assert_close(head.logits(pixels.features), linear(pixels.features).detach(), rtol=1e-3, atol=1e-3)
