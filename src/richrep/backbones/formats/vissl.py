"""VISSL, among it SEER: RegNet-Y and ResNet trunks with their heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from richrep.backbones.formats.format import Network, renamed, set_aside_note, state_dict_in, under
from richrep.data.preprocessing import Geometry, Preprocessing
from richrep.errors import CheckpointError

_MODEL = ("classy_state_dict", "base_model", "model")
_REGNET_RULES = (
    (r"^conv1\.stem\.", "stem."),
    (r"^res\d+\.block(\d+)-(\d+)\.", r"trunk_output.block\1.block\1-\2."),  # stage 1 is res2
    (r"\.proj\.", ".proj.0."),
    (r"(-\d+)\.bn\.", r"\1.proj.1."),  # of the projection; only the first block of a stage has one
    (r"\.f\.se\.excitation\.0\.", ".f.se.fc1."),
    (r"\.f\.se\.excitation\.2\.", ".f.se.fc2."),
    (r"\.f\.c\.", ".f.c.0."),
    (r"\.f\.final_bn\.", ".f.c.1."),
)
_PRETRAINED = Preprocessing(Geometry((224, 224), 256))
_FINETUNED = Preprocessing(Geometry((384, 384), 384, "bicubic"))  # SEER's fine-tuning on ImageNet


class VisslFormat:
    """Files of facebookresearch/vissl: trunk and heads under `classy_state_dict`, `base_model`, `model`."""

    name = "vissl"
    description = "VISSL and SEER: RegNet-Y of any size, ResNet; pretrained or fine-tuned"

    def read(self, content: Mapping[str, Any], metadata: Mapping[str, str]) -> Sequence[Network]:
        """The trunk under torchvision's names; the head when it is one linear layer, others are set aside."""
        trunk = state_dict_in(content, *_MODEL, "trunk")
        heads = state_dict_in(content, *_MODEL, "heads") or {}
        if trunk is None and not heads:
            return []
        body = under(trunk or {}, "_feature_blocks.")
        classifier = _classifier(heads)
        notes = () if classifier else set_aside_note("head that is not one linear layer", heads)
        if "conv1.stem.0.weight" in body:
            return [
                Network(
                    renamed(body, *_REGNET_RULES) | classifier,
                    notes=("names of VISSL's RegNet put into torchvision's", *notes),
                    preprocessing=_FINETUNED if classifier else _PRETRAINED,
                )
            ]
        if "conv1.weight" in body:
            return [Network(body | classifier, notes=notes, preprocessing=_PRETRAINED)]
        found = ", ".join(list(trunk or {})[:4]) or "no tensors"
        raise CheckpointError(
            f"its trunk holds {found}; expected a RegNet (_feature_blocks.conv1.stem.…) or a ResNet "
            "(_feature_blocks.conv1.weight). Other trunks, and heads alone, are not supported."
        )


def _classifier(heads: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The linear layer `0.clf.0` as torchvision's `fc`; empty unless it is the whole head."""
    is_linear = heads.keys() == {"0.clf.0.weight", "0.clf.0.bias"}
    return renamed(heads, (r"^0\.clf\.0\.", "fc.")) if is_linear else {}
