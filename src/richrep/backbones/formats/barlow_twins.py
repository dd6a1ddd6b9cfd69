"""Barlow Twins: a ResNet with a projector and a batch norm without weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from richrep.backbones.formats.container import read_container
from richrep.backbones.formats.format import Network, set_aside_note, split_off, under


class BarlowTwinsFormat:
    """Checkpoints of facebookresearch/barlowtwins: `{"model": …}` with `module.{backbone,projector,bn}.*`.

    The published file with the backbone alone is a plain state dict of a ResNet.
    """

    name = "barlow-twins"
    description = "Barlow Twins: ResNet"

    def read(self, content: Mapping[str, Any], metadata: Mapping[str, str]) -> Sequence[Network]:
        """The ResNet; projector and last batch norm are set aside."""
        tensors, notes = read_container(content, "model")
        if {name.partition(".")[0] for name in tensors} != {"backbone", "projector", "bn"}:
            return []
        _, others = split_off(tensors, r"(projector|bn)\.")
        return [Network(under(tensors, "backbone."), notes=notes + set_aside_note("projector and batch norm", others))]
