"""The container of IST-DASLab's pruned networks: AC/DC, GMP, WoodFisher, and all that the transfer study converted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from richrep.backbones.formats.format import Network
from richrep.backbones.formats.pruned import (
    apply_thresholds,
    find_pruned,
    make_network,
    recognise,
    split_masks,
)
from richrep.errors import CheckpointError

# `arch` of the container -> what the tensors' names must show; pooling, stem initialisation and head may differ
_CONTENTS = {
    **{name: name for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")},
    **dict.fromkeys(("resnet50_torch", "resnet50_str"), "resnet50"),
    **dict.fromkeys(("mobilenet_025", "mobilenet_050", "mobilenet_075", "mobilenet_str"), "mobilenet"),
    **{name: name for name in ("mobilenet", "mobilenet_amc", "resnet50_rigl")},
}


class SparseFormat:
    """`{model_config: {arch, dataset}, model_state_dict, epoch, …}`, or any state dict with wrapped layers.

    A wrapped layer X is stored as `X._layer.weight`, `X._layer.bias`, `X._weight_mask` and `X._bias_mask`.
    """

    name = "sparse"
    description = "pruned ResNets and MobileNetV1 of IST-DASLab: AC/DC, GMP, WoodFisher, the transfer study"

    def read(self, content: Mapping[str, Any], metadata: Mapping[str, str]) -> Sequence[Network]:
        """The network, masks applied."""
        found = find_pruned(content, self.name)
        if found is None:
            return []
        weights, stored = split_masks(found.tensors)
        weights, masks, notes = apply_thresholds(weights)
        config = content.get("model_config")
        said: tuple[str, ...] = ()
        if isinstance(config, Mapping) and "arch" in config:
            said = _check_architecture(str(config["arch"]), config.get("dataset"), weights)
        return [make_network(weights, masks | stored, notes=(*found.notes, *said, *notes))]


def _check_architecture(arch: str, dataset: object, weights: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """What the container says of the network, in one sentence, once the names of the tensors agree with it."""
    if arch == "linear" or weights.keys() <= {"weight", "bias"}:
        shape = tuple(weights["weight"].shape) if "weight" in weights else ()
        raise CheckpointError(
            f"model_config says arch {arch!r}: the file holds only a head, weight of shape {shape}, and no backbone. "
            "Give the checkpoint of the backbone that the head was trained on."
        )
    found = recognise(weights)
    if arch in _CONTENTS and found != _CONTENTS[arch]:
        shown = f"those of {found}" if found else f"not ({', '.join(list(weights)[:4])}, …)"
        raise CheckpointError(
            f"model_config says arch {arch!r}, but the tensors are {shown}. Expected names of {_CONTENTS[arch]}. "
            "Correct model_config in the file, or use the one that belongs to these tensors."
        )
    known = "" if arch in _CONTENTS else ", a name unknown to richrep, so the tensors decide"
    return (f"model_config: arch {arch!r}{known}, dataset {dataset!r}",)
