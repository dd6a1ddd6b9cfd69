"""SwAV: ResNet-50 and its widened sisters, with a projection head and prototypes beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from richrep.backbones.formats.container import read_container
from richrep.backbones.formats.format import Network, set_aside_note, split_off
from richrep.data.preprocessing import Geometry, Preprocessing

_IMAGENET = Preprocessing(Geometry(size_px=(224, 224), resize_px=256))


class SwavFormat:
    """Files of facebookresearch/swav: flat `module.*` names, or `{"state_dict": …}` as its training writes them."""

    name = "swav"
    description = "SwAV: ResNet-50, also 2, 4 and 5 times as wide"

    def read(self, content: Mapping[str, Any], metadata: Mapping[str, str]) -> Sequence[Network]:
        """The ResNet; projection head and prototypes are set aside."""
        tensors, notes = read_container(content, "state_dict")
        network, beside = split_off(tensors, r"projection_head\.", r"prototypes\.")
        if not beside or "conv1.weight" not in network:
            return []
        notes += set_aside_note("projection head and prototypes", beside)
        return [Network(network, notes=notes, preprocessing=_IMAGENET)]
