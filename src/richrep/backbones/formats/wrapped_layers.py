"""Pruned layers in the container of any project: the layers unwrapped, their masks kept.

The sparse framework and torch.nn.utils.prune wrap the layers of any network (pruned.py), so their names turn up in
files of RRL, of SwAV, of a plain training script. Here they are taken off first, and the masks find the tensors that
the format of the file hands on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from richrep.backbones.formats.format import Network
from richrep.backbones.formats.pruned import apply_masks, split_masks

_WRAPPED = re.compile(r".*(\._layer\.weight|\.weight_orig)")
_NEEDS_ITS_FORMAT = ("model_config", "mask")  # of containers that say more of a pruned network than its layers do
_MAX_NESTING = 5  # VISSL keeps its trunk under four keys


@dataclass
class Unwrapped:
    """The content of a file without wrapped layers.

    Attributes:
        content: the same containers; weights as the forward pass uses them.
        masks: weight in `content` and its mask, False where it was pruned.
        notes: what was done.
    """

    content: object
    masks: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    def keep_masks(self, network: Network) -> Network:
        """`network` with the masks of those of its tensors that were wrapped."""
        if not self.masks:
            return network
        by_weight = {id(weight): mask for weight, mask in self.masks}
        masks = {name: by_weight[id(tensor)] for name, tensor in network.tensors.items() if id(tensor) in by_weight}
        left = [mask for weight, mask in self.masks if id(weight) not in set(map(id, network.tensors.values()))]
        for name, tensor in network.tensors.items():  # a head whose columns were scaled is another tensor
            fitting = [mask for mask in left if name not in masks and _explains_zeros(mask, tensor)]
            if len(fitting) == 1:
                masks[name] = fitting[0]
        return replace(network, masks={**masks, **network.masks}, notes=(*self.notes, *network.notes))


def unwrap_layers(content: object) -> Unwrapped:
    """`content` with all layers unwrapped, wherever their state dicts lie; `content` itself when there are none.

    Raises CheckpointError for masks that fit no weight.
    """
    if isinstance(content, Mapping) and any(content.get(key) is not None for key in _NEEDS_ITS_FORMAT):
        return Unwrapped(content)
    found = Unwrapped(content)
    found.content = _unwrap(content, found, _MAX_NESTING, set())
    return found


def _unwrap(content: object, found: Unwrapped, depth: int, seen: set[int]) -> object:
    if not isinstance(content, Mapping) or not depth or id(content) in seen:
        return content
    seen.add(id(content))  # a pickle may contain itself, and the same part many times
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not any(map(_WRAPPED.fullmatch, tensors)):
        containers = {name: value for name, value in content.items() if isinstance(value, Mapping)}
        inner = {name: _unwrap(value, found, depth - 1, seen) for name, value in containers.items()}
        return content if all(inner[name] is value for name, value in containers.items()) else {**content, **inner}
    weights, masks = split_masks(tensors)
    effective, notes = apply_masks(weights, masks)
    found.masks += [(effective[name], mask) for name, mask in masks.items()]
    found.notes += (f"{len(masks)} masks of wrapped layers applied", *notes)
    return {name: value for name, value in content.items() if name not in tensors} | effective


def _explains_zeros(mask: torch.Tensor, tensor: torch.Tensor) -> bool:
    """Whether `tensor` can be the masked weight after a change: of the mask's shape, and zero where it prunes."""
    return mask.shape == tensor.shape and not bool(mask.all()) and not bool(torch.count_nonzero(tensor[~mask]))
