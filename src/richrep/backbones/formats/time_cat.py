"""time-CAT: ResNet-50 trained with the AlgoPerf benchmark, several short runs instead of a long one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from richrep.backbones.formats.container import read_container
from richrep.backbones.formats.format import Network, renamed
from richrep.data.preprocessing import Geometry, Preprocessing

_IMAGENET = Preprocessing(Geometry(size_px=(224, 224), resize_px=256))


class TimeCatFormat:
    """AlgoPerf containers: weights under `model_params`, of a network that was distributed, compiled, or neither.

    With a schedule-free optimiser the file holds the averaged weights, those to evaluate.
    """

    name = "time-cat"
    description = "time-CAT and AlgoPerf: ResNet-50 of schedule-free runs"

    def read(self, content: Mapping[str, Any], metadata: Mapping[str, str]) -> Sequence[Network]:
        """The ResNet and its head `fc`."""
        if "model_params" not in content:
            return []
        tensors, notes = read_container(content, "model_params")
        network = renamed(
            tensors, (r"\.downsample\.conv\.", ".downsample.0."), (r"\.downsample\.bn\.", ".downsample.1.")
        )
        if network.keys() != tensors.keys():
            notes += ("downsample.conv and downsample.bn renamed to downsample.0 and downsample.1",)
        return [Network(network, notes=notes, preprocessing=_IMAGENET)]
