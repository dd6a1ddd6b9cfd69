"""STR: networks whose pruning is one learned threshold per layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from richrep.backbones.formats.format import Network
from richrep.backbones.formats.pruned import apply_thresholds, find_pruned, make_network


class StrFormat:
    """Files of RAIVNLab/STR: `{epoch, arch, state_dict, …}`, with `X.sparseThreshold` or with thresholds applied.

    Their head `fc` is a 1x1 convolution without bias, which marks those without thresholds.
    """

    name = "str"
    description = "STR: ResNet50 and MobileNetV1, soft threshold reparameterisation, also dense-compatible files"

    def read(self, content: Mapping[str, Any], metadata: Mapping[str, str]) -> Sequence[Network]:
        """The network with its thresholds applied; what they zero is the mask."""
        found = find_pruned(content, self.name)
        if found is None:
            return []
        weights, masks, notes = apply_thresholds(found.tensors)
        return [make_network(weights, masks, notes=(*found.notes, *notes))]
