"""Pruned weights that stay pruned while the rest of the network trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import nn

from richrep.errors import RichrepError

MaskedParameter: TypeAlias = tuple[nn.Parameter, torch.Tensor]  # and a bool tensor of its shape, True where pruned


def masked_parameters(
    trunk: nn.Module, head: nn.Module | None, masks: Mapping[str, torch.Tensor]
) -> list[MaskedParameter]:
    """The parameters that a backbone's `masks` prune, and where.

    Args:
        head: the backbone's own head; None when it has none or a new one took its place: new heads are dense.
        masks: "trunk." or "head." and the parameter's name -> bool tensor, False where it was pruned.

    Raises:
        RichrepError: a mask that fits no parameter.
    """
    masked = []
    for name, mask in masks.items():
        part, _, inner = name.partition(".")
        module = {"trunk": trunk, "head": head}.get(part)
        if module is None and part == "head":
            continue
        parameter = None if module is None else dict(module.named_parameters(remove_duplicate=False)).get(inner)
        if parameter is None or parameter.shape != mask.shape:
            found = "no such parameter" if parameter is None else f"a parameter of shape {tuple(parameter.shape)}"
            raise RichrepError(
                f"The mask {name!r} of shape {tuple(mask.shape)} fits nothing: the network has {found}. Load the "
                "backbone again and train that."
            )
        masked.append((parameter, ~mask.to(parameter.device)))
    return masked


@torch.no_grad()
def keep_masks(masked: Sequence[MaskedParameter], optimizer: torch.optim.Optimizer) -> None:
    """To be called once before training and after every step: sets pruned weights to zero.

    With them go the optimizer's tensors of the same shape (momentum, moments, the second weights of schedule-free),
    so nothing brings a pruned weight back. The other weights move exactly as if the gradients had been masked.

    Source: IST-DASLab/sparse-imagenet-transfer multiplies the weights by the masks after every step. Differs: what the
    optimizer remembers of a pruned weight is forgotten too.
    """
    for parameter, pruned in masked:
        parameter.masked_fill_(pruned, 0)
        for value in optimizer.state.get(parameter, {}).values():
            if isinstance(value, torch.Tensor) and value.shape == pruned.shape:
                value.masked_fill_(pruned, 0)


def mask_gradients(masked: Sequence[MaskedParameter]) -> None:
    """To be called before gradients are clipped by their norm: pruned weights then count for nothing in it."""
    for parameter, pruned in masked:
        if parameter.grad is not None:
            parameter.grad.masked_fill_(pruned, 0)
