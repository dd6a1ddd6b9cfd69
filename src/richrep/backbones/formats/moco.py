"""MoCo, versions 1 to 3: the trained encoder and its moving average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from richrep.backbones.formats.container import read_container
from richrep.backbones.formats.format import Network, set_aside_note, split_off, state_dict_in, under
from richrep.backbones.formats.vit_tensors import (
    has_fixed_positions,
    imagenet_preprocessing,
    is_vit,
    read_vit_shape,
    vit_hints,
)

_ENCODERS = (("encoder_q", "encoder_k"), ("base_encoder", "momentum_encoder"))  # versions 1 and 2; version 3
_VIT_SMALL_WIDTH, _VIT_SMALL_HEADS = 384, 12  # of moco-v3's vits.py; other ViT-S have 6 heads


class MocoFormat:
    """Files of facebookresearch/moco and moco-v3: `{"state_dict": …}`, the encoders under `module.NAME.*`.

    The ViTs of version 3 without such names (linear probes, converted files) are told by their positions: fixed sines,
    those of the row first.
    """

    name = "moco"
    description = "MoCo v1, v2 (#encoder_q, #encoder_k) and v3 (#base_encoder, #momentum_encoder), ResNet or ViT"

    def read(self, content: Mapping[str, Any], metadata: Mapping[str, str]) -> Sequence[Network]:
        """The trained encoder first, then its moving average where the file has it; heads and queue are set aside."""
        tensors, notes = read_container(content, "model" if state_dict_in(content, "model") else "state_dict")
        for pair in _ENCODERS:
            encoders = {name: encoder for name in pair if (encoder := under(tensors, f"{name}."))}
            if pair[0] in encoders:
                beside, _ = split_off(tensors, *(rf"{name}\." for name in pair))
                notes += set_aside_note("queue or predictor", beside)
                return [_network(e, name if len(encoders) > 1 else "", notes) for name, e in encoders.items()]
        if is_vit(tensors) and has_fixed_positions(tensors, first="row"):
            return [_vit(tensors, notes=(*notes, "MoCo v3's, by its fixed positions"))]
        return []


def _network(encoder: Mapping[str, torch.Tensor], name: str, notes: tuple[str, ...]) -> Network:
    """Without the projection head, which stands where the classifier was."""
    body, head = split_off(encoder, r"fc\.", r"head\.")
    notes += set_aside_note("projection head", head)
    if not is_vit(body):
        return Network(body, name, notes, preprocessing=imagenet_preprocessing(224, "bilinear"))
    return _vit(body, name, notes)


def _vit(tensors: Mapping[str, torch.Tensor], name: str = "", notes: tuple[str, ...] = ()) -> Network:
    shape = read_vit_shape(tensors)
    num_heads = _VIT_SMALL_HEADS if shape.width == _VIT_SMALL_WIDTH else None
    preprocessing = imagenet_preprocessing(shape.size_px, "bilinear")
    return Network(tensors, name, notes, preprocessing=preprocessing, hints=vit_hints(tensors, num_heads=num_heads))
