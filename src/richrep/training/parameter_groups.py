"""Which parameters share a learning rate and a weight decay: groups by kind, found by the type of their layer."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import nn

from richrep.errors import RichrepError
from richrep.training.layer_depth import distances_from_head
from richrep.training.norms import is_norm

Kind: TypeAlias = Literal["norms", "biases", "weights"]
ParameterGroup: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class GroupOptions:
    """How learning rate and weight decay differ between parameters; a value to print, compare and store.

    Attributes:
        decay_norms: whether weight decay also acts on the parameters of normalisation layers.
        decay_biases: whether it also acts on biases: all other parameters of at most one dimension (layer scales too),
            and what a timm model exempts by itself (tokens, positions).
        head_lr: learning rate of the head; None: as the trunk.
        layer_decay: in (0, 1]: the trunk's learning rate is multiplied by this once for every layer below the head.
    """

    decay_norms: bool = True
    decay_biases: bool = True
    head_lr: float | None = None
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        if self.head_lr is not None and not 0 <= self.head_lr < float("inf"):
            raise RichrepError(f"head_lr must be a number >= 0, got {self.head_lr}.")
        if not 0 < self.layer_decay <= 1:
            raise RichrepError(f"layer_decay must be in (0, 1], 1 for none, got {self.layer_decay}.")


def make_parameter_groups(
    trunk: nn.Module | None,
    head: nn.Module | None,
    *,
    lr: float,
    weight_decay: float,
    options: GroupOptions | None = None,
) -> list[ParameterGroup]:
    """Groups for an optimizer; every parameter that requires a gradient is in exactly one, frozen ones in none.

    A group has `params`, `lr`, `initial_lr` (where a schedule starts from), `weight_decay` and `name`, e.g.
    "trunk.weights", "head.norms", with layer-wise decay "trunk.norms.3" (3 layers below the head).

    Args:
        trunk: everything before the head, its pooling included; None: only the head trains.
        head: None when there is none. What belongs to both counts as the head's.

    Raises:
        RichrepError: nothing to train.
    """
    options = options or GroupOptions()
    groups: dict[str, ParameterGroup] = {}
    grouped: set[nn.Parameter] = set()
    layerwise = options.layer_decay < 1 and trunk is not None
    distances = distances_from_head(trunk) if layerwise and trunk is not None else {}
    for part, module in (("head", head), ("trunk", trunk)):
        base_lr = lr if part == "trunk" or options.head_lr is None else options.head_lr
        for parameter, kind in _kinds(module).items() if module is not None else ():
            if parameter in grouped or not parameter.requires_grad:
                continue
            grouped.add(parameter)
            distance = distances.get(parameter, 0) if part == "trunk" else 0
            name = f"{part}.{kind}" + (f".{distance}" if layerwise and part == "trunk" else "")
            group = groups.setdefault(name, _group(name, base_lr * options.layer_decay**distance))
            group["weight_decay"] = weight_decay if _decays(kind, options) else 0.0
            group["params"].append(parameter)
    if not groups:
        raise RichrepError("There is nothing to train: all parameters are frozen. Unfreeze the head or the trunk.")
    return list(groups.values())


def _group(name: str, lr: float) -> ParameterGroup:
    return {"name": name, "params": [], "lr": lr, "initial_lr": lr}


def _decays(kind: Kind, options: GroupOptions) -> bool:
    return {"norms": options.decay_norms, "biases": options.decay_biases, "weights": True}[kind]


def _kinds(module: nn.Module) -> dict[nn.Parameter, Kind]:
    """Every parameter of `module`, once, and what it is."""
    exempt = set(_exempt_by_timm(module))
    kinds: dict[nn.Parameter, Kind] = {}
    for layer in module.modules():
        for parameter in layer.parameters(recurse=False):
            kind: Kind = "biases" if parameter.ndim <= 1 or parameter in exempt else "weights"
            kinds.setdefault(parameter, "norms" if is_norm(layer) else kind)
    return kinds


def _exempt_by_timm(module: nn.Module) -> Iterable[nn.Parameter]:
    """Parameters that timm models inside `module` list in `no_weight_decay()`."""
    for model in module.modules():
        if hasattr(model, "no_weight_decay"):
            patterns = tuple(model.no_weight_decay())  # type: ignore[operator]
            for name, parameter in model.named_parameters():
                if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):  # as timm's own groups do
                    yield parameter
