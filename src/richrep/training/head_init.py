"""Where a head starts: from random weights, from the heads of the networks below it, or from a checkpoint's own."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from richrep.backbones.backbone import Backbone
from richrep.errors import RichrepError, unknown_name_message
from richrep.training.norms import evaluating

KEPT_HEADS = ("cat-weights", "from-checkpoint")  # of HEAD_INITS: those that draw nothing
_NORMAL_STD = 0.01
_CHUNK_ROWS = 64
_TESTED_ROWS = 16
_ROUNDING = 1e-9  # of the largest logit, in float64: about 1e7 times that of one operation
AFRESH = "Start afresh with head init 'default' or 'normal'."


def make_head(
    feature_dim: int, num_classes: int, mode: str, *, members: Sequence[Backbone], generator: torch.Generator
) -> nn.Linear:
    """A linear head, features (B, D) -> logits (B, K).

    Args:
        feature_dim: D, the sum of the members' widths.
        num_classes: K, of the data.
        mode: "default": as torch's nn.Linear, weights and biases even in +-1/sqrt(D); "normal": weights from
            N(0, 0.01^2), biases 0; "cat-weights": the members' heads side by side, divided by their number, biases
            averaged: without a norm in front the logits are exactly the mean of the members' logits; "from-checkpoint":
            the head of the one member.
        members: the networks whose features the head gets, in this order.
        generator: draws what is random.

    Raises:
        RichrepError: an unknown mode, or members whose heads are missing, not linear, or of other classes.

    Source: TjuJianyu/RRL, headinit none, normal and cat_weights. Differs: class counts are checked.
    """
    if mode not in HEAD_INITS:
        raise RichrepError(unknown_name_message("head init", mode, HEAD_INITS))
    head = nn.Linear(feature_dim, num_classes, device="meta").to_empty(device="cpu")  # so that nothing is drawn
    HEAD_INITS[mode](head, members, generator)
    return head


def linear_of_head(backbone: Backbone) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (K, D) and bias (K,), float32 on the CPU, that give the own head's logits from the backbone's features.

    A head that is more than one linear layer (norms, 1x1 convolution, pooling, dropout) is measured: its answers to the
    unit vectors and to zero, in float64 and evaluation mode, are all there is to know if it is linear; random inputs,
    which its answers must then predict, tell whether it is.

    Raises:
        RichrepError: no head, or one that is not linear in the features.
    """
    head = backbone.head
    if head is None:
        raise RichrepError(f"{backbone.address} has no head of its own. {AFRESH}")
    if isinstance(head, nn.Linear) and isinstance(backbone.pool, nn.Identity):
        weight = head.weight.detach()
        bias = head.bias.detach() if head.bias is not None else weight.new_zeros(len(weight))
    else:
        weight, bias = _measure(backbone, head)
    return weight.to("cpu", torch.float32, copy=True), bias.to("cpu", torch.float32, copy=True)


def check_same_classes(class_names: Mapping[str, Sequence[str]], *, advice: str = AFRESH) -> None:
    """Raises RichrepError when the heads of several networks, or a head and its data, do not mean the same classes.

    Args:
        class_names: who ("a.pth", "cifar10") -> the names of its classes in the order of its logits or labels.
        advice: what to do about it.
    """
    (first, names), *others = class_names.items()
    for other, found in others:
        if len(found) != len(names):
            raise RichrepError(f"{first} has {len(names)} classes, {other} {len(found)}. {advice}")
        different = [f"{i}: {a!r} and {b!r}" for i, (a, b) in enumerate(zip(names, found, strict=True)) if a != b]
        if different:
            same = "the same classes in another order" if set(names) == set(found) else "other classes"
            listed = ", ".join(different[:6]) + (f", … ({len(different)} in all)" if len(different) > 6 else "")
            raise RichrepError(f"{first} and {other} have {same}: {listed}. Averaging would mix them up. {advice}")


@torch.no_grad()
def _default(head: nn.Linear, members: Sequence[Backbone], generator: torch.Generator) -> None:
    bound = 1 / math.sqrt(head.in_features)
    head.weight.uniform_(-bound, bound, generator=generator)
    head.bias.uniform_(-bound, bound, generator=generator)


@torch.no_grad()
def _normal(head: nn.Linear, members: Sequence[Backbone], generator: torch.Generator) -> None:
    head.weight.normal_(0.0, _NORMAL_STD, generator=generator)
    head.bias.zero_()


def _cat_weights(head: nn.Linear, members: Sequence[Backbone], generator: torch.Generator) -> None:
    heads = [linear_of_head(member) for member in members]
    counts = {member.address: len(bias) for member, (_, bias) in zip(members, heads, strict=True)}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{address} {count}" for address, count in counts.items())
        raise RichrepError(f"Heads of different numbers of classes cannot be averaged: {listed}. {AFRESH}")
    weight = torch.cat([weight for weight, _ in heads], dim=1) / len(heads)
    _copy_into(head, weight, torch.stack([bias for _, bias in heads]).mean(0), members)


def _from_checkpoint(head: nn.Linear, members: Sequence[Backbone], generator: torch.Generator) -> None:
    if len(members) != 1:
        raise RichrepError(
            f"Head init 'from-checkpoint' keeps the head of one network, got {len(members)}. Use 'cat-weights'."
        )
    _copy_into(head, *linear_of_head(members[0]), members)


HEAD_INITS: dict[str, Callable[[nn.Linear, Sequence[Backbone], torch.Generator], None]] = {
    "default": _default,
    "normal": _normal,
    "cat-weights": _cat_weights,
    "from-checkpoint": _from_checkpoint,
}


@torch.no_grad()
def _copy_into(head: nn.Linear, weight: torch.Tensor, bias: torch.Tensor, members: Sequence[Backbone]) -> None:
    names = " and ".join(member.address for member in members)
    if len(weight) != head.out_features:
        raise RichrepError(
            f"The head of {names} has {len(weight)} classes, the data {head.out_features}; a head is kept only for the "
            f"classes it was trained on. {AFRESH}"
        )
    if weight.shape[1] != head.in_features:
        raise RichrepError(
            f"The head of {names} takes {weight.shape[1]} features, the backbone gives {head.in_features}. {AFRESH}"
        )
    head.weight.copy_(weight)
    head.bias.copy_(bias)


@torch.no_grad()
def _measure(backbone: Backbone, head: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a head of several layers, in float64."""
    width, shape = backbone.feature_dim, _shape_before_the_head(backbone)
    exact_head, exact_pool = (copy.deepcopy(module).cpu().double().eval() for module in (head, backbone.pool))
    bias = exact_head(_spread(torch.zeros(1, width, dtype=torch.float64), shape))  # (1, K)
    generator = torch.Generator().manual_seed(0)
    hidden = 10 * torch.randn(_TESTED_ROWS, *shape, generator=generator, dtype=torch.float64)
    first, second = exact_head(hidden), exact_head(-2 * hidden)
    _check_linear(second - bias, -2 * (first - bias), backbone, head)  # at once, measuring takes longer
    units = torch.eye(width, dtype=torch.float64)
    answers = [
        exact_head(_spread(units[start : start + _CHUNK_ROWS], shape)) - bias for start in range(0, width, _CHUNK_ROWS)
    ]
    weight = torch.cat(answers).T
    _check_linear(first, exact_pool(hidden) @ weight.T + bias, backbone, head)
    return weight, bias[0]


def _check_linear(logits: torch.Tensor, expected: torch.Tensor, backbone: Backbone, head: nn.Module) -> None:
    """Raises RichrepError unless the logits are as expected of a linear head, up to rounding in float64."""
    if not torch.allclose(logits, expected, rtol=0, atol=_ROUNDING * float(expected.abs().max())):
        layers = ", ".join(type(layer).__name__ for layer in head.modules() if not list(layer.children()))
        raise RichrepError(
            f"The head of {backbone.address} ({layers}) is not linear in the pooled features, so no linear head starts "
            f"from it. {AFRESH}"
        )


def _shape_before_the_head(backbone: Backbone) -> tuple[int, ...]:
    """Of what the trunk gives for one image."""
    parameter = next(backbone.trunk.parameters(), torch.zeros(1))
    image = torch.zeros(1, 3, *backbone.preprocessing.geometry.size_px, device=parameter.device, dtype=parameter.dtype)
    with evaluating(backbone.trunk):
        return tuple(backbone.trunk(image).shape[1:])


def _spread(rows: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Features (B, D) as what has them for its mean: maps (B, D, H, W), else (B, …, D), the same in all places."""
    if len(shape) == 3 and shape[0] == rows.shape[1]:
        return rows[:, :, None, None].expand(-1, -1, *shape[1:])
    return rows.view(len(rows), *[1] * (len(shape) - 1), rows.shape[1]).expand(-1, *shape)
