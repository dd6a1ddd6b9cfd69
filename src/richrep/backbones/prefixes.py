"""Networks whose names all start with something of the project around them: `backbone.`, `model.encoder.`, `net.`.

A prefix is taken off only when the tensors under it are a whole network, which the caller finds out by comparing, and
when what lies beside them is plainly no part of a network: heads, projectors, losses.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from richrep.backbones.checkpoint import Checkpoint
from richrep.backbones.foreign import is_beside
from richrep.backbones.formats.format import under

_COLOURS = 3  # the first layer of every network takes images, (D, 3, P, P)
_MIN_TENSORS = 6  # AlexNet's convolutions, without its head, have ten
_LISTED = 4


@dataclass(frozen=True, eq=False)
class Inner:
    """The tensors under one prefix.

    Attributes:
        prefix: with its dots, e.g. "model.backbone.".
        checkpoint: the file, with these tensors only, under their names without the prefix.
        beside: names in the file that do not start with it.
    """

    prefix: str
    checkpoint: Checkpoint
    beside: tuple[str, ...]

    @property
    def strangers(self) -> tuple[str, ...]:
        """Those of `beside` that may belong to a network."""
        return tuple(name for name in self.beside if not is_beside(_branch(name, self.prefix)))

    def is_copy_of(self, other: Inner) -> bool:
        """Whether both hold the same values under the same names."""
        own, others = self.checkpoint.tensors, other.checkpoint.tensors
        return own.keys() == others.keys() and all(_are_equal(own[name], others[name]) for name in own)


def inner_networks(checkpoint: Checkpoint) -> Iterator[Inner]:
    """What may be a network under a prefix: it has a layer that takes images. Shorter prefixes first."""
    stems = [name for name, tensor in checkpoint.tensors.items() if tensor.ndim == 4 and tensor.shape[1] == _COLOURS]
    sizes = Counter(prefix for name in checkpoint.tensors for prefix in _prefixes(name))
    prefixes = {prefix for name in stems for prefix in _prefixes(name) if sizes[prefix] >= _MIN_TENSORS}
    for prefix in sorted(prefixes, key=lambda prefix: (prefix.count("."), prefix)):
        yield _inner(checkpoint, prefix)


def _prefixes(name: str) -> Iterator[str]:
    """ "a.", "a.b." of "a.b.weight"."""
    return (name[: match.end()] for match in re.finditer(r"\.", name))


def _inner(checkpoint: Checkpoint, prefix: str) -> Inner:
    beside = tuple(name for name in checkpoint.tensors if not name.startswith(prefix))
    note = f"prefix {prefix!r} taken off" + (f"; set aside: {describe(beside)}" if beside else "")
    return Inner(
        prefix,
        replace(
            checkpoint,
            tensors=under(checkpoint.tensors, prefix),
            masks=under(checkpoint.masks, prefix),
            network="/".join(filter(None, (checkpoint.network, prefix[:-1]))),
            notes=(*checkpoint.notes, note),
        ),
        beside,
    )


def describe(names: tuple[str, ...]) -> str:
    """ "3 tensors (head.weight, …)"."""
    more = ", …" if len(names) > _LISTED else ""
    return f"{len(names)} tensor{'s' * (len(names) > 1)} ({', '.join(names[:_LISTED])}{more})"


def _branch(name: str, prefix: str) -> str:
    """The first part of `name` that it does not share with `prefix`."""
    for own, other in zip(name.split("."), prefix.split("."), strict=False):
        if own != other:
            return own
    return name


def _are_equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    return first.dtype == second.dtype and torch.equal(first, second)
