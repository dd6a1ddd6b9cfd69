"""SimSiam: a ResNet with a projection head where the classifier was, and a predictor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from richrep.backbones.formats.container import read_container
from richrep.backbones.formats.format import Network, set_aside_note, split_off, under


class SimSiamFormat:
    """Files of facebookresearch/simsiam: `{"state_dict": …}` with `module.encoder.*` and `module.predictor.*`."""

    name = "simsiam"
    description = "SimSiam: ResNet"

    def read(self, content: Mapping[str, Any], metadata: Mapping[str, str]) -> Sequence[Network]:
        """The ResNet; projection head and predictor are set aside."""
        tensors, notes = read_container(content, "state_dict")
        if {name.partition(".")[0] for name in tensors} != {"encoder", "predictor"}:
            return []
        body, projection = split_off(under(tensors, "encoder."), r"fc\.")
        if "conv1.weight" not in body:
            return []
        _, predictor = split_off(tensors, r"predictor\.")
        notes += set_aside_note("projection head", projection) + set_aside_note("predictor", predictor)
        return [Network(body, notes=notes)]
