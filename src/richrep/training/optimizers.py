"""Optimizers by name, and where schedule-free ones keep the weights that are meant to be used."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from richrep.errors import RichrepError, unknown_name_message
from richrep.training.norms import norms_with_statistics, recompute_norm_statistics
from richrep.training.parameter_groups import ParameterGroup


@dataclass(frozen=True)
class OptimizerOptions:
    """An optimizer and its numbers; a value to print, compare and store.

    Attributes:
        name: one of `OPTIMIZERS`.
        lr: learning rate the schedule starts from. weight_decay: L2 penalty, in "adamw" decoupled.
        momentum: of the two SGDs; in "schedulefree-sgd" it interpolates between newest and average weights, in (0, 1).
        nesterov: of "sgd" alone.
        betas, eps: of "adamw" and "schedulefree-adamw"; there the first beta interpolates.
        averaging_power: of the schedule-free ones: step t weighs t^averaging_power in the average; 0: all alike.
        lr_power: of the schedule-free ones: and lr^lr_power, with the largest learning rate so far.

    Raises:
        RichrepError: an unknown name, or a number out of range.
    """

    name: str = "sgd"
    lr: float = 0.01
    weight_decay: float = 0.0
    momentum: float = 0.9
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    averaging_power: float = 0.0
    lr_power: float = 2.0

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise RichrepError(unknown_name_message("optimizer", self.name, OPTIMIZERS))
        for name in ("lr", "weight_decay", "eps"):
            if not 0 <= getattr(self, name) < math.inf:
                raise RichrepError(f"{name} must be a number >= 0, got {getattr(self, name)}.")
        for name, value in (("momentum", self.momentum), *(("every beta", beta) for beta in self.betas)):
            if not 0 <= value < 1:
                raise RichrepError(f"{name} must be in [0, 1), got {value}.")
        interpolation = {"schedulefree-sgd": self.momentum, "schedulefree-adamw": self.betas[0]}.get(self.name, 1)
        if interpolation == 0:
            raise RichrepError(f"{self.name} needs a momentum (its first beta) above 0, got 0. Use 0.9.")
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise RichrepError(f"nesterov needs sgd with a momentum above 0, got {self.name} with {self.momentum}.")


def make_optimizer(groups: Sequence[ParameterGroup], options: OptimizerOptions) -> torch.optim.Optimizer:
    """The optimizer on `groups` (of parameter_groups.py), in training mode; their `lr` and `weight_decay` count."""
    optimizer = OPTIMIZERS[options.name]([dict(group) for group in groups], options)
    if is_schedule_free(optimizer):
        optimizer.train()  # type: ignore[attr-defined]
    return optimizer


def _sgd(groups: list[dict[str, Any]], options: OptimizerOptions) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        groups,
        lr=options.lr,
        momentum=options.momentum,
        nesterov=options.nesterov,
        weight_decay=options.weight_decay,
    )


def _adamw(groups: list[dict[str, Any]], options: OptimizerOptions) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        groups, lr=options.lr, betas=options.betas, eps=options.eps, weight_decay=options.weight_decay
    )


def _schedulefree_sgd(groups: list[dict[str, Any]], options: OptimizerOptions) -> torch.optim.Optimizer:
    """Defazio et al., The road less scheduled, 2024, https://arxiv.org/abs/2405.15682."""
    from schedulefree import SGDScheduleFree

    optimizer: torch.optim.Optimizer = SGDScheduleFree(
        groups,
        lr=options.lr,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        r=options.averaging_power,
        weight_lr_power=options.lr_power,
    )
    return optimizer


def _schedulefree_adamw(groups: list[dict[str, Any]], options: OptimizerOptions) -> torch.optim.Optimizer:
    """Defazio et al., The road less scheduled, 2024, https://arxiv.org/abs/2405.15682."""
    from schedulefree import AdamWScheduleFree

    optimizer: torch.optim.Optimizer = AdamWScheduleFree(
        groups,
        lr=options.lr,
        betas=options.betas,
        eps=options.eps,
        weight_decay=options.weight_decay,
        r=options.averaging_power,
        weight_lr_power=options.lr_power,
    )
    return optimizer


OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], OptimizerOptions], torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "adamw": _adamw,
    "schedulefree-sgd": _schedulefree_sgd,
    "schedulefree-adamw": _schedulefree_adamw,
}


def is_schedule_free(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the weights during training are not the ones to use: see `evaluation_point`."""
    return "train_mode" in optimizer.param_groups[0]


@torch.no_grad()
def go_to_evaluation_point(
    optimizer: torch.optim.Optimizer, network: nn.Module, batches: Iterable[torch.Tensor] | None
) -> None:
    """For good, at the end of training: puts the weights to use into `network`. Only schedule-free ones differ.

    Args:
        batches: training images as `network` takes them, about 50 batches: the statistics of norms, gathered at the
            training weights, are measured anew. None leaves them, for norms that were in evaluation mode.
    """
    if is_schedule_free(optimizer):
        optimizer.eval()  # type: ignore[attr-defined]
        if batches is not None:
            recompute_norm_statistics(network, batches)


@contextmanager
def evaluation_point(
    optimizer: torch.optim.Optimizer, network: nn.Module, batches: Iterable[torch.Tensor] | None
) -> Iterator[None]:
    """Inside, `network` holds the weights to use; afterwards exactly what it held before, so training is not disturbed.

    A schedule-free optimizer trains at a point y between the newest weights and their average x; x is what to use.
    Costs a copy of the parameters there, and nothing with the others.
    """
    if not is_schedule_free(optimizer):
        yield
        return
    groups = optimizer.param_groups
    tensors = [parameter for group in groups for parameter in group["params"]]
    tensors += [buffer for norm in norms_with_statistics(network) for buffer in norm.buffers()]
    before, modes = [tensor.detach().clone() for tensor in tensors], [group["train_mode"] for group in groups]
    try:
        go_to_evaluation_point(optimizer, network, batches)
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
        for group, mode in zip(groups, modes, strict=True):
            group["train_mode"] = mode
