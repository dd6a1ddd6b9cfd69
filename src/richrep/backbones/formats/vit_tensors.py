"""What the tensors of a ViT under timm's names say of its shape, and the hints for what they cannot say.

Shared by the formats whose projects train ViTs; families/vit.py builds the network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from richrep.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Geometry, Preprocessing
from richrep.errors import CheckpointError

_HEAD_WIDTH = 64  # values per attention head, Dosovitskiy et al. 2021, table 1
_SIXTEEN_HEADS = (1280, 1408, 1664)  # widths of ViT-H, g and G, whose heads are wider

_NOT_FOLLOWED = {"register_tokens", "reg_token", "dist_token", "rope", "fc_norm"}
_MAX_DEPTH = 200  # blocks; the deepest published have 48


@dataclass(frozen=True)
class VitShape:
    """Width D of a token, number of blocks, width within an MLP, side of a patch (pixels) and of the grid (patches)."""

    width: int
    depth: int
    mlp_width: int
    patch_px: int
    grid: int

    @property
    def size_px(self) -> int:
        """Side of the image."""
        return self.grid * self.patch_px


def is_vit(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether these are a ViT's: class token and blocks."""
    return "cls_token" in tensors and any(name.startswith("blocks.") for name in tensors)


def read_vit_shape(tensors: Mapping[str, torch.Tensor]) -> VitShape:
    """The shape of the ViT. Raises CheckpointError naming the tensor that is missing or odd."""
    patches = _find(tensors, "patch_embed.proj.weight", "(D, 3, P, P)", ndim=4)
    positions = _find(tensors, "pos_embed", "(1, 1 + G * G, D)", ndim=3)
    mlp = _find(tensors, "blocks.0.mlp.fc1.weight", "(mlp width, D)", ndim=2)
    blocks = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    other = [name for name in tensors if name.partition(".")[0] in _NOT_FOLLOWED]
    if other:
        raise CheckpointError(
            f"{', '.join(other[:4])} take part in the forward pass of this ViT, which is not supported. Give the "
            "architecture as ARCH@PATH if timm has it."
        )
    if len(blocks) > _MAX_DEPTH:
        raise CheckpointError(f"the ViT has {len(blocks):,} blocks, expected at most {_MAX_DEPTH}.")
    grid = math.isqrt(max(positions.shape[1] - 1, 0))
    if grid == 0 or 1 + grid * grid != positions.shape[1]:
        raise CheckpointError(
            f"pos_embed has {positions.shape[1]} positions, expected those of a class token and of a square grid of "
            "patches, e.g. 197 = 1 + 14 * 14. Other grids are not supported."
        )
    return VitShape(len(patches), len(blocks), len(mlp), patches.shape[-1], grid)


def vit_hints(
    tensors: Mapping[str, torch.Tensor],
    *,
    num_heads: int | None = None,
    norm_eps: float = 1e-6,
    activation: str = "gelu",
) -> dict[str, str]:
    """What families/vit.py must know beside the tensors.

    Args:
        num_heads: of the attention; None means 16 in ViT-H, g and G, else as many as have 64 values each.
        norm_eps: of every LayerNorm.
        activation: in the MLPs, a name that timm knows.
    """
    width = read_vit_shape(tensors).width
    heads = num_heads or (16 if width in _SIXTEEN_HEADS else max(width // _HEAD_WIDTH, 1))
    if width % heads:
        raise CheckpointError(
            f"the ViT has tokens of {width} values, which {heads} attention heads cannot share. Its number of heads is "
            "not known, so it cannot be used."
        )
    return {"num_heads": str(heads), "norm_eps": str(norm_eps), "activation": activation}


def imagenet_preprocessing(size_px: int, interpolation: str) -> Preprocessing:
    """Resize to 8/7 of the size (256 for 224), centre crop, ImageNet's mean and std."""
    geometry = Geometry((size_px, size_px), size_px * 8 // 7, interpolation)
    return Preprocessing(geometry, IMAGENET_MEAN, IMAGENET_STD)


def _find(tensors: Mapping[str, torch.Tensor], name: str, expected: str, *, ndim: int) -> torch.Tensor:
    if name not in tensors:
        raise CheckpointError(f"{name} is missing, expected a ViT with patches, positions and blocks. Save it whole.")
    if tensors[name].ndim != ndim or 0 in tensors[name].shape:
        shape = tuple(tensors[name].shape)
        raise CheckpointError(f"{name} has shape {shape}, expected {expected}. Save the network again.")
    return tensors[name]
