"""State dict -> network, exactly: every tensor of the network from the file, or one error that lists all mismatches."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from richrep.backbones.foreign import is_beside, is_copy
from richrep.errors import CheckpointError

# Counts training batches and changes no feature; files from before PyTorch 0.4.1 lack it.
_BATCH_COUNTER = "num_batches_tracked"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # what is cast to the type of the network
_LISTED_IGNORED = 6
_LISTED_PER_SIDE = 40  # a deeper network differs in hundreds of names; these make the pattern clear


@dataclass(frozen=True)
class Comparison:
    """The tensors of a file held against those of a network, by name and shape.

    Attributes:
        matched: how many tensors of the network the file has, with the same shape and a usable type.
        total: how many tensors the network has (without `num_batches_tracked`).
        missing: names of the network that the file lacks.
        unexpected: names of the file that are none of this network and may be of its forward pass.
        misshapen: "name: file (2, 3), network (2, 4)".
        ignored: names of the file that take no part in the features: heads, losses, copies (foreign.py).
    """

    matched: int
    total: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    ignored: tuple[str, ...] = field(default=())

    @property
    def fits(self) -> bool:
        """Whether the file holds exactly this network, perhaps beside foreign tensors."""
        return not (self.missing or self.unexpected or self.misshapen)

    @property
    def mismatches(self) -> int:
        """How many names differ; smaller means closer."""
        return len(self.missing) + len(self.unexpected) + len(self.misshapen)

    def check(self, *, what: str) -> None:
        """Raises CheckpointError with all mismatches, unless the file fits."""
        if not self.fits:
            raise CheckpointError(f"{what} does not fit: {self.describe()}. Nothing was loaded.")

    def describe(self) -> str:
        """All mismatches, grouped by side."""
        sides = (
            ("in the network but missing in the file", self.missing),
            ("in the file but not in the network", self.unexpected),
            ("of another shape or type", self.misshapen),
        )
        return "; ".join(f"{len(names)} {side}: {_listed(names)}" for side, names in sides if names)


def compare(
    tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], *, whole: bool = False
) -> Comparison:
    """Holds the `tensors` of a file against the `expected` state dict of a network.

    A surplus tensor is ignored only when its top-level name says that it takes no part in the features (foreign.py),
    and the network has no module of that name, or of that name with another number (`layer4` beside `layer3`). Any
    other is unexpected, and all are when the `tensors` are the `whole` network and nothing else.
    """
    wanted = {name: tensor for name, tensor in expected.items() if not _is_batch_counter(name)}
    missing = tuple(name for name in wanted if name not in tensors)
    misshapen = tuple(
        f"{name}: {difference}"
        for name, tensor in wanted.items()
        if name in tensors and (difference := _difference(tensors[name], tensor))
    )
    own = {_family_of_module(name) for name in expected}
    surplus = [name for name in tensors if name not in expected and not _is_batch_counter(name)]
    ignored = (
        () if whole else tuple(name for name in surplus if _family_of_module(name) not in own and _is_foreign(name))
    )
    foreign = set(ignored)
    unexpected = tuple(name for name in surplus if name not in foreign)
    matched = len(wanted) - len(missing) - len(misshapen)
    return Comparison(matched, len(wanted), missing, unexpected, misshapen, ignored)


def load_exactly(network: nn.Module, tensors: Mapping[str, torch.Tensor], *, what: str) -> Comparison:
    """Puts the `tensors` of a file into `network`, in place, as tensors of its own that share nothing with the file.

    Half precision and double precision are cast to the network's type; nothing is broadcast.

    Args:
        network: its weights may lie on the meta device; afterwards none of its parameters and saved buffers does.
        what: file and architecture, for messages.

    Raises:
        CheckpointError: the file does not hold exactly this network, or holds values that are not finite.
    """
    expected = network.state_dict()
    comparison = compare(tensors, expected)
    comparison.check(what=what)
    chosen = {
        name: tensors[name] for name in expected if name in tensors and tensors[name].shape == expected[name].shape
    }
    check_finite(chosen, what=what)
    copies = {
        name: tensor.detach().to(expected[name].dtype, copy=True, memory_format=torch.contiguous_format)
        for name, tensor in chosen.items()
    }
    counters = expected.keys() - copies.keys()  # batch counters that the file lacks start from 0, as in a new network
    copies |= {name: torch.zeros(expected[name].shape, dtype=expected[name].dtype) for name in counters}
    expected.update(copies)  # keeps the versions of the modules' own formats, which some modules look at
    network.load_state_dict(expected, strict=True, assign=True)
    return comparison


def check_finite(tensors: Mapping[str, torch.Tensor], *, what: str) -> None:
    """Raises CheckpointError naming every tensor with NaN or infinite values."""
    bad = [name for name, tensor in tensors.items() if not _is_finite(tensor)]
    if bad:
        raise CheckpointError(
            f"{what}: {len(bad)} tensors hold values that are not finite (NaN or inf): {_listed(bad)}. "
            "The file is damaged or its training diverged; use another one."
        )


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether every value is finite: one pass and no copy, as NaN and infinities survive in the extremes."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    if tensor.dtype.itemsize == 1:  # float8 has no such operation
        tensor = tensor.to(torch.float32)
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))


def describe_ignored(names: Iterable[str]) -> str:
    """ "none", or "3 tensors (projector.0.weight, …)"."""
    names = list(names)
    if not names:
        return "none"
    more = ", …" if len(names) > _LISTED_IGNORED else ""
    return f"{len(names)} tensor{'s' * (len(names) > 1)} ({', '.join(names[:_LISTED_IGNORED])}{more})"


def _difference(found: torch.Tensor, wanted: torch.Tensor) -> str:
    """Why `found` cannot take the place of `wanted`; empty when it can."""
    if found.shape != wanted.shape:
        return f"file {tuple(found.shape)}, network {tuple(wanted.shape)}"
    if found.layout != torch.strided or found.is_quantized:
        return f"file holds a {'quantised' if found.is_quantized else found.layout} tensor, network a dense one"
    if found.dtype != wanted.dtype and not (found.dtype in _FLOATS and wanted.dtype in _FLOATS):
        return f"file {found.dtype}, network {wanted.dtype}"
    return ""


def _is_batch_counter(name: str) -> bool:
    return name.rpartition(".")[2] == _BATCH_COUNTER


def _is_foreign(name: str) -> bool:
    """Whether the top-level module or buffer takes no part in the features."""
    part = name.partition(".")[0]
    return is_beside(part) or is_copy(part)


def _family_of_module(name: str) -> str:
    """The top-level module of a tensor without its number: "layer3.0.conv1.weight" -> "layer"."""
    return re.sub(r"\d+$", "", name.partition(".")[0])


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f", … ({len(names) - _LISTED_PER_SIDE} more)" if len(names) > _LISTED_PER_SIDE else ""
    return ", ".join(names[:_LISTED_PER_SIDE]) + more
