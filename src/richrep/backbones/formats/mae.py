"""MAE: ViTs as pretrained, with or without decoder, with a linear probe, and fine-tuned on averaged patches."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from richrep.backbones.formats.container import read_container
from richrep.backbones.formats.format import Network, set_aside_note, split_off
from richrep.backbones.formats.vit_tensors import (
    has_fixed_positions,
    imagenet_preprocessing,
    is_vit,
    pools_patches,
    read_vit_shape,
    vit_hints,
)
from richrep.errors import CheckpointError

_OF_VIT = re.compile(
    r"cls_token|pos_embed|(patch_embed\.proj|fc_norm|head|blocks\.\d+\.(norm[12]|attn\.(qkv|proj)|mlp\.fc[12]))"
    r"\.(weight|bias)"
)
_PROBE_EPS = 1e-6  # of the batch norm before a linear probe, facebookresearch/mae, main_linprobe.py


class MaeFormat:
    """Files of facebookresearch/mae: `{"model": …}` with a ViT under timm's names.

    Such files are common. MAE's have a decoder, or positions that are its fixed sines and no head but that of a linear
    probe, or `fc_norm` in place of `norm`: the feature is then the normalised average of the patches. Networks
    fine-tuned on the class token are plain ViTs. With `fc_norm`, also flat or under `state_dict`.
    """

    name = "mae"
    description = "MAE: ViT, pretrained, with a linear probe, or fine-tuned on averaged patches"

    def read(self, content: Mapping[str, Any], metadata: Mapping[str, str]) -> Sequence[Network]:
        """The encoder and its head; the decoder is set aside."""
        tensors, notes = read_container(content, "state_dict" if "model" not in content else "model")
        encoder, decoder = split_off(tensors, r"decoder_", r"mask_token$")
        if not is_vit(encoder) or ("model" not in content and not _averages_patches(encoder)):
            return []
        is_pretrained = "head.weight" not in encoder and has_fixed_positions(encoder, first="column")
        if not (is_pretrained or pools_patches(encoder) or "decoder_embed.weight" in decoder):
            return []
        if "head.1.weight" in encoder:
            encoder = _with_folded_probe(encoder)
            notes += ("the head's BatchNorm folded into its linear layer, in float64",)
        return [
            Network(
                encoder,
                notes=notes + set_aside_note("decoder", decoder),
                preprocessing=imagenet_preprocessing(read_vit_shape(encoder).size_px, "bicubic"),
                hints=vit_hints(encoder),
            )
        ]


def _averages_patches(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether these are MAE's ViT with `fc_norm` and nothing else; BEiT, EVA and others have more in their blocks."""
    return pools_patches(tensors) and all(map(_OF_VIT.fullmatch, tensors))


def _with_folded_probe(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The probe's batch norm without weights, `head.0`, and linear layer, `head.1`, as one linear layer `head`."""
    rest, probe = split_off(tensors, r"head\.")
    wanted = ("head.0.running_mean", "head.0.running_var", "head.1.weight", "head.1.bias")
    others = probe.keys() - {*wanted, "head.0.num_batches_tracked"}
    shapes = [tuple(probe[name].shape) for name in wanted if name in probe]
    if (
        others
        or len(shapes) < len(wanted)
        or [(s[-1:], len(s)) for s in shapes[:3]] != [(shapes[2][-1:], n) for n in (1, 1, 2)]
    ):
        raise CheckpointError(
            f"its head holds {', '.join(f'{n} {tuple(t.shape)}' for n, t in probe.items())}, expected a linear probe: "
            f"{', '.join(wanted)}, of one width. Save the state_dict() of the whole model again."
        )
    mean, variance, weight, bias = (probe[name].double() for name in wanted)
    folded = weight / torch.sqrt(variance + _PROBE_EPS)
    dtype = probe["head.1.weight"].dtype
    return {**rest, "head.weight": folded.to(dtype), "head.bias": (bias - folded @ mean).to(dtype)}
