"""BYOL, in the layouts of its PyTorch ports: the online network and its moving average, the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from richrep.backbones.formats.format import (
    Network,
    any_state_dict,
    renamed,
    set_aside_note,
    split_off,
    state_dict_in,
    under,
    without_wrappers,
)

_NAMES = ("online_network", "target_network", "online_encoder", "target_encoder")
_BODIES = ("encoder.", "net.", "backbone.", "")  # where the ResNet lies in a network
_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


class ByolFormat:
    """Four ports that differ in names only.

    - Lightning Bolts: `{"state_dict": …}` with `online_network.encoder.*` and `target_network.encoder.*`.
    - yaox12/BYOL-PyTorch: `{"model": …}` with the same names, the ResNet's children numbered (`encoder.0.weight`).
    - lucidrains/byol-pytorch: `online_encoder.net.*` and `target_encoder.net.*`.
    - sthalles/PyTorch-BYOL: `online_network_state_dict` and `target_network_state_dict`, children numbered.
    """

    name = "byol"
    description = "BYOL (PyTorch ports): online and target network, ResNet"

    def read(self, content: Mapping[str, Any], metadata: Mapping[str, str]) -> Sequence[Network]:
        """The online network first; projectors, predictors and an unused `fc` are set aside."""
        parts = {name: _body(network) for name, network in _networks(content).items() if network}
        if not any(name.startswith("online_") for name in parts):
            return []
        if any("conv1.weight" not in body for body, _ in parts.values()):
            return []
        return [
            Network(body, name if len(parts) > 1 else "", set_aside_note("projector or unused fc", others))
            for name, (body, others) in parts.items()
        ]


def _networks(content: Mapping[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
    """Name -> tensors of the online and the target network, empty where there is none."""
    if any(f"{name}_state_dict" in content for name in _NAMES):
        return {name: without_wrappers(state_dict_in(content, f"{name}_state_dict") or {}) for name in _NAMES}
    tensors = without_wrappers(any_state_dict(content, "state_dict", "model") or {})
    return {name: under(tensors, f"{name}.") for name in _NAMES}


def _body(network: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(the ResNet under torchvision's names, everything else)."""
    prefix = next(prefix for prefix in _BODIES if any(name.startswith(prefix) for name in network))
    body, others = split_off(network, rf"(?!{prefix})", rf"{prefix}fc\.", r"proj\w*\.")
    numbered = tuple((rf"^{number}\.", f"{name}.") for number, name in _CHILDREN.items())
    return renamed(under(body, prefix), *numbered), others
