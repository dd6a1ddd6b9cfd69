"""VICReg: a ResNet with an expander."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from richrep.backbones.formats.container import read_container
from richrep.backbones.formats.format import Network, set_aside_note, split_off, under


class VicregFormat:
    """Checkpoints of facebookresearch/vicreg: `{"model": …}` with `module.backbone.*` and `module.projector.*`.

    The published file with the backbone alone is a plain state dict of a ResNet.
    """

    name = "vicreg"
    description = "VICReg: ResNet"

    def read(self, content: Mapping[str, Any], metadata: Mapping[str, str]) -> Sequence[Network]:
        """The ResNet; the expander is set aside."""
        tensors, notes = read_container(content, "model")
        if {name.partition(".")[0] for name in tensors} != {"backbone", "projector"} or "model" not in content:
            return []
        _, expander = split_off(tensors, r"projector\.")
        return [Network(under(tensors, "backbone."), notes=notes + set_aside_note("expander", expander))]
