"""Building networks without drawing weights: shapes only, or values that a checkpoint is about to replace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

T = TypeVar("T")

_ATEN = torch.ops.aten
# Random fills in place -> position of the argument that takes the place of every drawn value: mean, lower end.
# The lower end, because log(0) = -inf is what ends the rejection loop of torch.nn.init.trunc_normal_.
_RANDOM_FILLS = {_ATEN.normal_.default: 1, _ATEN.uniform_.default: 1}


# What allocates weights. Not torch.arange, so not simply torch.device("meta"): torchvision's RegNets compute their
# widths with it and read the values.
_ALLOCATIONS = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn}


class _WeightsOnMeta(TorchFunctionMode):
    """The given functions, which allocate weights, give tensors without memory."""

    def __init__(self, allocations: set[Any]) -> None:
        super().__init__()
        self.allocations = allocations

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in self.allocations:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


class _ConstantInsteadOfRandom(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """In-place random fills write a constant: faster, and nothing is drawn."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _RANDOM_FILLS:
            position = _RANDOM_FILLS[func]
            return args[0].fill_(args[position] if len(args) > position else 0.0)
        return func(*args, **(kwargs or {}))


@contextmanager
def isolated_rng(seed: int | None = None) -> Iterator[None]:
    """The CPU generator starts from `seed` (None: from where it is) and is put back afterwards; CUDA is not touched."""
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def constant_weights() -> Iterator[None]:
    """Networks built inside lie in memory with constants where random weights would be; draws nothing."""
    with isolated_rng(), _ConstantInsteadOfRandom():  # type: ignore[no-untyped-call]
        yield


@contextmanager
def shapes_only() -> Iterator[None]:
    """Networks built inside have nearly all of their weights on the meta device: names and shapes, no memory."""
    with constant_weights(), _WeightsOnMeta(_ALLOCATIONS):
        yield


def build_without_weights(make: Callable[[], T], modules_of: Callable[[T], Iterable[nn.Module]]) -> T:
    """What `make` builds, with weights that a checkpoint must replace before use; draws nothing.

    Most weights lie on the meta device and everything that no checkpoint holds is real. Networks whose constructors
    cannot work with that are built in memory, with constant weights, which is slower for large ones.

    Args:
        modules_of: the networks in what `make` returns.
    """
    try:
        with constant_weights(), _WeightsOnMeta({torch.empty}):
            made = make()
        if all(_only_weights_on_meta(module) for network in modules_of(made) for module in network.modules()):
            return made
    except (RuntimeError, NotImplementedError):  # torch's words for "no data in a meta tensor" and "two devices"
        pass
    with constant_weights():
        return make()


def _only_weights_on_meta(module: nn.Module) -> bool:
    """Whether everything in `module` that its state dict lacks is real: unsaved buffers and plain attributes."""
    unsaved = [
        module.get_buffer(name) for name in module._non_persistent_buffers_set if module._buffers[name] is not None
    ]
    attributes = [value for value in vars(module).values() if isinstance(value, torch.Tensor)]
    return not any(tensor.is_meta for tensor in unsaved + attributes)
