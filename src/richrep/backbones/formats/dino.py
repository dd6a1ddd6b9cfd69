"""DINO: ViTs and ResNets, the teacher and the student of one training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from richrep.backbones.formats.format import Network, set_aside_note, split_off, state_dict_in, under, without_wrappers
from richrep.backbones.formats.vit_tensors import imagenet_preprocessing, is_vit, read_vit_shape, vit_hints


class DinoFormat:
    """Checkpoints of facebookresearch/dino: `teacher` and `student`, each with `backbone.*` and perhaps `head.*`.

    The files with the backbone alone are plain state dicts of a ViT or ResNet.
    """

    name = "dino"
    description = "DINO: teacher and student, ViT or ResNet"

    def read(self, content: Mapping[str, Any], metadata: Mapping[str, str]) -> Sequence[Network]:
        """The backbones, the teacher's first; projection heads are set aside."""
        networks = []
        names = [name for name in ("teacher", "student") if state_dict_in(content, name)]
        for name in names:
            tensors = without_wrappers(state_dict_in(content, name) or {})
            if not under(tensors, "backbone.") or {n.partition(".")[0] for n in tensors} - {"backbone", "head"}:
                return []
            body, head = under(tensors, "backbone."), split_off(tensors, r"head\.")[1]
            vit = is_vit(body)
            networks.append(
                Network(
                    body,
                    name if len(names) > 1 else "",
                    notes=(f"read from {name!r}", *set_aside_note("projection head", head)),
                    preprocessing=imagenet_preprocessing(read_vit_shape(body).size_px if vit else 224, "bicubic"),
                    hints=vit_hints(body) if vit else {},
                )
            )
        return networks
