"""One of timm's ViTs for a file whose format says what the tensors do not: heads, norms, activation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from richrep.backbones.checkpoint import Checkpoint
from richrep.backbones.families.family import Layout
from richrep.backbones.formats.vit_tensors import QUICK_GELU, is_described, read_vit_shape
from richrep.data.preprocessing import Preprocessing


def heed_vit_hints(layout: Layout, checkpoint: Checkpoint) -> Layout:
    """`layout`, with the file's positions resampled where the grid differs; other networks and files stay as they are.

    Heads and norms must be the file's, and QuickGELU where the file shows it. GELU is what a format without a word
    about it has, so there the user's word counts more.
    """
    from timm.layers.pos_embed import resample_abs_pos_embed
    from timm.models import VisionTransformer

    model: Any = layout.trunk
    if not is_described(checkpoint.hints) or not isinstance(layout.trunk, VisionTransformer):
        return layout
    own = {"num_heads": str(model.blocks[0].attn.num_heads), "norm_eps": str(model.blocks[0].norm1.eps)}
    heeds_activation = checkpoint.hints.get("activation") != QUICK_GELU or _has_quick_gelu(model)
    heeded = (
        *(["activation"] if heeds_activation else []),
        *(hint for hint, value in own.items() if checkpoint.hints.get(hint) == value),
    )
    layout = replace(layout, heeded=heeded)
    shape, grid = read_vit_shape(checkpoint.tensors), model.patch_embed.grid_size
    if grid == (shape.grid, shape.grid) or shape.width != model.embed_dim:
        return layout
    positions = resample_abs_pos_embed(checkpoint.tensors["pos_embed"], new_size=list(grid))
    note = f"positions resampled from {shape.grid}x{shape.grid} to {grid[0]}x{grid[1]} (bicubic)"
    return replace(
        layout,
        tensors={**layout.tensors, "pos_embed": positions},
        preprocessing=_scaled(layout.preprocessing, model.patch_embed.img_size),
        notes=(*layout.notes, note),
    )


def _has_quick_gelu(model: Any) -> bool:
    """Whether the activation in the MLPs is CLIP's x * sigmoid(1.702 x)."""
    return type(model.blocks[0].mlp.act).__name__ == "QuickGELU"


def _scaled(preprocessing: Preprocessing, size_px: tuple[int, int]) -> Preprocessing:
    """The same for another size of image."""
    old = preprocessing.geometry
    resize = None if old.resize_px is None else round(old.resize_px * max(size_px) / max(old.size_px))
    return replace(preprocessing, geometry=replace(old, size_px=size_px, resize_px=resize))
