"""The contract of a checkpoint family: which architectures a file may hold, and how each is laid out as trunk and head.

A new family is one file in this folder:

1. Write a class with the members of `Family` (cifar_resnet.py is the shortest example). `detect` looks at the names,
   shapes and metadata of `checkpoint`, never at its path, and may name an architecture too many: the exact comparison
   comes after it, in detection.py. `lay_out` builds the network and says where its head lies in the file. When the
   file's names differ from the network's, hand the renamed tensors over as `Layout.tensors`.
2. Add one line to `FAMILIES` in __init__.py.

Reading the file, comparing, listing mismatches, loading and the load report are shared and need no code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypedDict

import torch
from torch import nn

from richrep.backbones.checkpoint import Checkpoint
from richrep.data.preprocessing import Preprocessing
from richrep.errors import AddressError, CheckpointError, unknown_name_message


@dataclass(frozen=True, eq=False)
class Layout:
    """One architecture laid out for one checkpoint; weights come later.

    Attributes:
        trunk: images (B, 3, H, W) -> what `pool` and `head` take; its state dict must be covered by `tensors`.
        preprocessing: what an image goes through before the trunk.
        feature_dim: D.
        tensors: the file's tensors under the names of trunk and head.
        pool: output of the trunk -> features (B, D); has no weights.
        head: output of the trunk -> logits (B, K); None when the file has none or it cannot be used.
        head_names: name in `tensors` -> name in the head's state dict.
        head_kind: "linear" or "conv".
        set_aside: names in `tensors` that belong to a head that is not used.
        variant: what changes features and neither the architecture's name nor a tensor says, e.g. "SAME padding".
        notes: for the load report, one sentence each.
        heeded: keys of the checkpoint's `hints` that the network follows; a file with others does not fit.
    """

    trunk: nn.Module
    preprocessing: Preprocessing
    feature_dim: int
    tensors: Mapping[str, torch.Tensor]
    pool: nn.Module = field(default_factory=nn.Identity)
    head: nn.Module | None = None
    head_names: Mapping[str, str] = field(default_factory=dict)
    head_kind: str = "linear"
    set_aside: Sequence[str] = ()
    variant: str = ""
    notes: tuple[str, ...] = ()
    heeded: Sequence[str] = ()


class Family(Protocol):
    """Architectures whose checkpoints share one layout.

    Attributes:
        name: short, in lower case; first part of an address, e.g. "timm" in `timm/resnet50@PATH`.
        yields_to: families that win when a file fits both, e.g. because they know more about it.
        spelled: regular expression of names that say a whole network and stand in no list; "" when there are none.
    """

    name: str
    yields_to: tuple[str, ...]
    spelled: str

    def architectures(self) -> Mapping[str, str]:
        """Name of every architecture -> a few words about it; cheap."""
        ...

    def tags(self, architecture: str) -> Sequence[str]:
        """Names of published weights; `ARCH.TAG` stands for the architecture with the preprocessing of those."""
        ...

    def detect(self, checkpoint: Checkpoint) -> Sequence[str]:
        """Architectures that the file may hold, judged by its contents: all that fit, perhaps one too many.

        Raises CheckpointError when the file is the family's and no network that the family may guess.
        """
        ...

    def nearest(self, checkpoint: Checkpoint) -> Sequence[str]:
        """Others that the file resembles, nearest first, for the message when nothing fits; may take its time."""
        ...

    def lay_out(self, architecture: str, checkpoint: Checkpoint) -> Layout:
        """The network of `architecture` for this file. Called in a context in which weights cost nothing.

        Raises CheckpointError when the file's metadata asks for something unknown.
        """
        ...


def knows(family: Family, architecture: str) -> bool:
    """Whether `architecture`, ARCH or ARCH.TAG, is one of the family's, listed or spelled out."""
    stem, _, tag = architecture.partition(".")
    is_listed = stem in family.architectures() and (not tag or tag in family.tags(stem))
    return is_listed or bool(family.spelled and re.fullmatch(family.spelled, architecture))


def unknown_architecture(families: Sequence[Family], wanted: str) -> AddressError:
    """The error for a name that none of `families` knows: the nearest names, or the tags of an architecture."""
    stem, _, tag = wanted.partition(".")
    owners = [family for family in families if stem in family.architectures()]
    if tag and owners:
        tags = {tag for family in owners for tag in family.tags(stem)}
        return AddressError(unknown_name_message(f"weights of {stem}", tag, tags))
    names = {name for family in families for name in family.architectures()}
    kind = f"{families[0].name} architecture" if len(families) == 1 else "architecture"
    return AddressError(unknown_name_message(kind, wanted, names))


class LinearHead(TypedDict):
    """The two fields of a `Layout` that say what its head is."""

    head: nn.Linear | None
    head_names: dict[str, str]


def linear_head(tensors: Mapping[str, torch.Tensor], prefix: str, *, width: int) -> LinearHead:
    """An nn.Linear with as many classes as `prefix.weight` has rows, and a bias where the file has one.

    No head when the file has no such tensor. Raises CheckpointError for a bias without its weight.
    """
    weight, has_bias = tensors.get(f"{prefix}.weight"), f"{prefix}.bias" in tensors
    if weight is None and has_bias:
        raise CheckpointError(
            f"the file holds half a head: {prefix}.bias without {prefix}.weight. Save the state_dict() again."
        )
    if weight is None or weight.ndim != 2:
        return {"head": None, "head_names": {}}
    head = nn.Linear(width, len(weight), bias=has_bias)
    return {"head": head, "head_names": {f"{prefix}.{name}": name for name in head.state_dict()}}
