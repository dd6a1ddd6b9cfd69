"""MAE: pretrained ViTs, with or without their decoder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from richrep.backbones.formats.container import read_container
from richrep.backbones.formats.format import Network, set_aside_note, split_off
from richrep.backbones.formats.vit_tensors import imagenet_preprocessing, is_vit, read_vit_shape, vit_hints


class MaeFormat:
    """Pretraining files of facebookresearch/mae: `{"model": …}` with a ViT under timm's names.

    Such files are common; MAE's have a decoder, or no head and positions that are its fixed sines. Fine-tuned networks
    are plain ViTs.
    """

    name = "mae"
    description = "MAE: pretrained ViT"

    def read(self, content: Mapping[str, Any], metadata: Mapping[str, str]) -> Sequence[Network]:
        """The encoder, whose feature is the class token; the decoder is set aside."""
        tensors, notes = read_container(content, "model")
        encoder, decoder = split_off(tensors, r"decoder_", r"mask_token$")
        if "model" not in content or not is_vit(encoder):
            return []
        has_fixed_positions = "head.weight" not in encoder and _has_fixed_positions(encoder)
        if not (has_fixed_positions or "decoder_embed.weight" in decoder):
            return []
        return [
            Network(
                encoder,
                notes=notes + set_aside_note("decoder", decoder),
                preprocessing=imagenet_preprocessing(read_vit_shape(encoder).size_px, "bicubic"),
                hints=vit_hints(encoder),
            )
        ]


def _has_fixed_positions(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether `pos_embed` is MAE's: zeros for the class token, then sines and cosines of the column, of the row."""
    positions = tensors.get("pos_embed")
    if positions is None or not _is_table(positions):
        return False
    grid, quarter = math.isqrt(positions.shape[1] - 1), positions.shape[-1] // 4
    frequencies = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * frequencies  # (G, D / 4)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (G, D / 2)
    expected = torch.cat([waves.repeat(grid, 1), waves.repeat_interleave(grid, dim=0)], dim=1)  # (G * G, D)
    expected = torch.cat([torch.zeros(1, 4 * quarter), expected])[None]
    return positions.shape == expected.shape and torch.allclose(positions.double(), expected, atol=1e-3)


def _is_table(positions: torch.Tensor) -> bool:
    """Whether these could be MAE's positions (1, 1 + G * G, D): dense floats, D a multiple of 4."""
    is_dense = positions.layout == torch.strided and positions.is_floating_point()
    return is_dense and positions.ndim == 3 and positions.shape[1] > 1 and positions.shape[2] % 4 == 0
