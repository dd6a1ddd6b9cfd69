"""Normalisation layers, found by their type: which they are, keeping their statistics, measuring them anew."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase  # batch and instance norms, the synchronised one included

from richrep.errors import RichrepError


def is_norm(module: nn.Module) -> bool:
    """Whether `module` is a normalisation layer of torch, torchvision or timm, or of a class derived from one."""
    return isinstance(module, norm_types())


@functools.cache
def norm_types() -> tuple[type[nn.Module], ...]:
    """The classes of normalisation layers: torch's, torchvision's, and all that timm's files of norms define."""
    from timm.layers import evo_norm, filter_response_norm, grn, inplace_abn, norm, norm_act, split_batchnorm
    from torchvision.ops.misc import FrozenBatchNorm2d

    files = (evo_norm, filter_response_norm, grn, inplace_abn, norm, norm_act, split_batchnorm)
    of_timm = {
        member
        for file in files
        for _, member in inspect.getmembers(file, inspect.isclass)
        if issubclass(member, nn.Module) and member.__module__ == file.__name__
    }
    of_torch = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
    return (*of_torch, FrozenBatchNorm2d, *sorted(of_timm, key=lambda member: member.__name__))


def norms_with_statistics(network: nn.Module) -> Iterator[_NormBase]:
    """The layers that keep running statistics of the images they see in training mode."""
    for module in network.modules():
        if isinstance(module, _NormBase) and module.running_mean is not None:
            yield module


def set_training(network: nn.Module, *, norms_in_eval: bool = False) -> nn.Module:
    """Training mode; with `norms_in_eval` norms keep their statistics and use them, while their weights may train.

    Meant for a trunk: a new head with a norm has no statistics worth keeping.
    """
    network.train()
    if norms_in_eval:
        for norm in norms_with_statistics(network):
            norm.eval()
    return network


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module is in the mode that it was in."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def recompute_norm_statistics(network: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Replaces all running statistics in `network` by the mean over `batches`, every batch weighing the same.

    Only the norms are in training mode meanwhile, so dropout draws nothing. Modes and momenta are put back.

    Args:
        batches: whatever `network` takes, e.g. images (B, 3, H, W); equal sizes, for an equal weight of every image.

    Raises:
        RichrepError: no batches, though the network has such norms.

    Source: Izmailov et al., Averaging weights leads to wider optima, 2018, https://arxiv.org/abs/1803.05407, section
    3.2; torch.optim.swa_utils.update_bn. Differs: the rest of the network stays in evaluation mode.
    """
    norms = list(norms_with_statistics(network))
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    num_batches = 0
    with evaluating(network):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch: the mean over all batches
            norm.train()
        try:
            for batch in batches:
                network(batch)
                num_batches += 1
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    if not num_batches:
        raise RichrepError("Statistics of norm layers need at least one batch of images, got none.")
