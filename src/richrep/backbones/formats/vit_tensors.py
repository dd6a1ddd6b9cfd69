"""What the tensors of a ViT under timm's names say of its shape, and the hints for what they cannot say.

Shared by the formats whose projects train ViTs; families/vit.py builds the network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from richrep.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Geometry, Preprocessing
from richrep.errors import CheckpointError

# width -> heads. Dosovitskiy et al. 2021, table 1, Touvron et al. 2021, table 1, and open_clip: 64 values per head but
# for ViT-H, g and G
_HEADS = {**{64 * heads: heads for heads in (3, 4, 6, 8, 10, 12, 14, 16)}, **dict.fromkeys((1280, 1408, 1664), 16)}

_NOT_FOLLOWED = {"register_tokens", "reg_token", "dist_token", "rope"}
QUICK_GELU = "quick_gelu"  # timm's word for CLIP's x * sigmoid(1.702 x)
MAX_DEPTH = 200  # blocks; the deepest published have 48


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


def is_hybrid(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether a ResNet comes before the blocks."""
    return any(name.startswith("patch_embed.backbone.") for name in tensors)


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
    if len(blocks) > MAX_DEPTH:
        raise CheckpointError(f"the ViT has {len(blocks):,} blocks, expected at most {MAX_DEPTH}.")
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
        num_heads: of the attention; None means as many as the published ViTs of this width have, or not known.
        norm_eps: of every LayerNorm.
        activation: in the MLPs, a name that timm knows; empty means not known.
    """
    heads = num_heads or _HEADS.get(read_vit_shape(tensors).width)
    hints = {"num_heads": str(heads or ""), "norm_eps": str(norm_eps), "activation": activation}
    if pools_patches(tensors):
        hints["pool"] = "avg"
    return {hint: value for hint, value in hints.items() if value}


def is_described(hints: Mapping[str, str]) -> bool:
    """Whether these are hints of `vit_hints`."""
    return "norm_eps" in hints


def pools_patches(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether the feature is the average of the patches, normalised, and not the class token."""
    return "fc_norm.weight" in tensors and "norm.weight" not in tensors


def has_fixed_positions(tensors: Mapping[str, torch.Tensor], *, first: Literal["column", "row"]) -> bool:
    """Whether `pos_embed` is zeros for the class token, then for every patch sines and cosines of its column and row.

    Args:
        first: what the first half of the values is made of: "column" in MAE, "row" in MoCo v3.
    """
    positions = tensors.get("pos_embed")
    if positions is None or not _is_table(positions):
        return False
    grid, quarter = math.isqrt(positions.shape[1] - 1), positions.shape[-1] // 4
    frequencies = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * frequencies  # (G, D / 4)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (G, D / 2)
    halves = [waves.repeat(grid, 1), waves.repeat_interleave(grid, dim=0)]  # of the column, of the row
    expected = torch.cat(halves if first == "column" else halves[::-1], dim=1)  # (G * G, D)
    expected = torch.cat([torch.zeros(1, 4 * quarter), expected])[None]
    return positions.shape == expected.shape and torch.allclose(positions.double(), expected, atol=1e-3)


def _is_table(positions: torch.Tensor) -> bool:
    """Whether these could be positions (1, 1 + G * G, D): dense floats, D a multiple of 4."""
    is_dense = positions.layout == torch.strided and positions.is_floating_point()
    return is_dense and positions.ndim == 3 and positions.shape[1] > 1 and positions.shape[2] % 4 == 0


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
