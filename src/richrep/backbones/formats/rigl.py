"""RigL: ResNet50 under the names that its conversion from TensorFlow gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from richrep.backbones.formats.format import Network
from richrep.backbones.formats.pruned import find_pruned, make_network


class RiglFormat:
    """State dicts with `initial_conv.conv.weight`, outside the container of sparse.py.

    The network is torchvision's ResNet50 but for the pooling of the stem, which pads right and below only.
    """

    name = "rigl"
    description = "RigL: ResNet50 from TensorFlow, bicubic resizing, SAME pooling in the stem"

    def read(self, content: Mapping[str, Any], metadata: Mapping[str, str]) -> Sequence[Network]:
        """The network under torchvision's names; its zeros say what was pruned."""
        found = find_pruned(content, self.name)
        return [make_network(found.tensors, {}, notes=found.notes)] if found is not None else []
