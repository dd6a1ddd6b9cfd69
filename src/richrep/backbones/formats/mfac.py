"""M-FAC: a state dict beside one flat mask over all pruned weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from richrep.backbones.formats.format import Network
from richrep.backbones.formats.pruned import Tensors, as_mask, find_pruned, make_network
from richrep.errors import CheckpointError


class MfacFormat:
    """Files of IST-DASLab/M-FAC: `{model, mask, epoch}`, the mask a bool vector, True where a weight stays."""

    name = "m-fac"
    description = "M-FAC: ResNet50 and MobileNetV1 with one flat mask"

    def read(self, content: Mapping[str, Any], metadata: Mapping[str, str]) -> Sequence[Network]:
        """The network, its share of the mask applied to every pruned weight."""
        found = find_pruned(content, self.name)
        if found is None:
            return []
        masks = _cut(content["mask"], found.tensors)
        return [make_network(found.tensors, masks, notes=found.notes)]


def _cut(mask: torch.Tensor, weights: Tensors) -> Tensors:
    """The mask of each pruned weight, in the order of the file.

    M-FAC prunes the weights with "conv" or "fc" in their names; its networks for ImageNet, whose names do not all
    have these, all weights of convolutions and linear layers.
    """
    kernels = [name for name, weight in weights.items() if name.endswith("weight") and weight.ndim >= 2]
    named = [name for name in kernels if "conv" in name or "fc" in name]
    for pruned in (named, kernels):
        sizes = [weights[name].numel() for name in pruned]
        if pruned and sum(sizes) == mask.numel():
            parts = zip(pruned, torch.split(mask, sizes), strict=True)
            return {name: as_mask(name, part, weights) for name, part in parts}
    raise CheckpointError(
        f"the mask has {mask.numel():,} values, expected {sum(weights[name].numel() for name in named):,} (weights "
        f"named conv or fc) or {sum(weights[name].numel() for name in kernels):,} (all). Mask and network differ."
    )
