"""The only training loop: batches in, a loss of one batch, steps of an optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch

from richrep.data.preprocessing import Geometry
from richrep.data.split import Split
from richrep.errors import RichrepError

LossOfBatch = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # images (B, 3, H, W), labels (B,) -> scalar


def load_pixels(split: Split, geometry: Geometry) -> torch.Tensor:
    """All images of `split` as uint8 (N, H, W, 3), decoded once; for data sets that fit in memory."""
    return torch.stack([torch.from_numpy(geometry.apply(split.load_image(row)).copy()) for row in range(len(split))])


def shuffled_batches(num_images: int, batch_size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Rows (B,) without end: epoch after epoch in a new order, a last short batch left out.

    Raises:
        RichrepError: `batch_size` is not in [1, num_images].
    """
    if not 1 <= batch_size <= num_images:
        raise RichrepError(f"batch_size must be in [1, {num_images}], the number of images, got {batch_size}.")
    while True:
        order = torch.randperm(num_images, generator=generator)
        for start in range(0, num_images - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def cosine_lr(step: int, *, num_steps: int, warmup_steps: int) -> float:
    """Factor on the learning rate at `step` (from 0): linear to 1 over the warm-up, then a half cosine towards 0.

    >>> [round(cosine_lr(s, num_steps=6, warmup_steps=2), 3) for s in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, num_steps - warmup_steps)))


def train_steps(
    loss_of_batch: LossOfBatch,
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
    optimizer: torch.optim.Optimizer,
    *,
    num_steps: int,
    lr_factor: Callable[[int], float] = lambda step: 1.0,
) -> list[float]:
    """Takes `num_steps` steps of `optimizer`, whose parameters `loss_of_batch` must depend on; returns the losses.

    Args:
        batches: pairs of images (B, 3, H, W) and labels (B,).
        lr_factor: step (from 0) -> factor on every group's learning rate.

    Raises:
        RichrepError: the loss is not finite.
    """
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor)
    losses = []
    for step in range(num_steps):
        loss = loss_of_batch(*next(batches))
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise RichrepError(f"The loss is {losses[-1]} at step {step}: training diverged. Lower the learning rate.")
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        scheduler.step()
    return losses
