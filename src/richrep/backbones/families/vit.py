"""ViTs of any size, their shape read from the tensors; for formats that say what the tensors do not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from richrep.backbones.checkpoint import Checkpoint
from richrep.backbones.families.family import Layout, linear_head
from richrep.backbones.families.library_index import load_index
from richrep.backbones.families.metadata import read_preprocessing
from richrep.backbones.families.timm_models import TimmFamily
from richrep.backbones.formats.vit_tensors import VitShape, imagenet_preprocessing, read_vit_shape
from richrep.data.preprocessing import Preprocessing

_NAMED = re.compile(r"vit_(tiny|small|base|large|huge|giant|gigantic)_patch\d+_(clip_)?(quickgelu_)?\d+")
# (width, depth, heads) -> timm's word for it; Dosovitskiy et al. 2021, table 1, and Touvron et al. 2021, table 1
_SIZES = {
    (192, 12, 3): "tiny",
    (384, 12, 6): "small",
    (768, 12, 12): "base",
    (1024, 24, 16): "large",
    (1280, 32, 16): "huge",
    (1408, 40, 16): "giant",
    (1664, 48, 16): "gigantic",
}


class VitFamily:
    """Dosovitskiy et al. An Image is Worth 16x16 Words, ICLR 2021, https://arxiv.org/abs/2010.11929; timm's network.

    Detects only files of formats with the hints of formats/vit_tensors.py: what the heads of the attention and the
    activation are, no tensor says. Features are the class token after the last norm. A file opened by the name of one
    of timm's ViTs may have other positions: they are resampled.
    """

    name = "vit"
    yields_to: tuple[str, ...] = ("timm",)

    def architectures(self) -> Mapping[str, str]:
        """Those of timm's that the formats use."""
        entries = load_index("timm").entries
        return {name: entry.describe() for name, entry in entries.items() if _NAMED.fullmatch(name)}

    def tags(self, architecture: str) -> Sequence[str]:
        """None: the format says the preprocessing."""
        return ()

    def detect(self, checkpoint: Checkpoint) -> Sequence[str]:
        """The one that tensors and hints say."""
        return [_name(checkpoint)] if _is_described(checkpoint) else []

    def lay_out(self, architecture: str, checkpoint: Checkpoint) -> Layout:
        """Trunk without classifier; head `head`."""
        if _is_described(checkpoint) and architecture == _name(checkpoint):
            return _lay_out_as_described(checkpoint)
        layout = TimmFamily().lay_out(architecture, checkpoint)
        return _fit_to_named(layout, checkpoint) if _is_described(checkpoint) else layout


def _is_described(checkpoint: Checkpoint) -> bool:
    """Whether the file's format says what this family needs."""
    return "num_heads" in checkpoint.hints


def _name(checkpoint: Checkpoint) -> str:
    """As timm would call it; of unusual sizes, the numbers instead of a word."""
    shape = read_vit_shape(checkpoint.tensors)
    heads = int(checkpoint.hints["num_heads"])
    size = _SIZES.get((shape.width, shape.depth, heads), f"{shape.width}x{shape.depth}_heads{heads}")
    clip = "clip_" if _has_first_norm(checkpoint) else ""
    quick = "quickgelu_" if checkpoint.hints["activation"] == "quick_gelu" else ""
    return f"vit_{size}_patch{shape.patch_px}_{clip}{quick}{shape.size_px}"


def _lay_out_as_described(checkpoint: Checkpoint) -> Layout:
    shape = read_vit_shape(checkpoint.tensors)
    assumed = imagenet_preprocessing(shape.size_px, "bicubic")
    preprocessing, note = read_preprocessing(checkpoint, assumed, "ImageNet mean and std")
    head = linear_head(checkpoint.tensors, "head", width=shape.width)
    is_published = (shape.width, shape.depth, int(checkpoint.hints["num_heads"])) in _SIZES
    depth = () if is_published else (f"{shape.depth} blocks, as many as the file holds: no published size",)
    return Layout(
        trunk=_make_trunk(shape, checkpoint),
        preprocessing=preprocessing,
        feature_dim=shape.width,
        tensors=checkpoint.tensors,
        head=head,
        head_names={"head.weight": "weight", "head.bias": "bias"} if head is not None else {},
        notes=(note, *depth),
        heeded=("num_heads", "norm_eps", "activation"),
    )


def _make_trunk(shape: VitShape, checkpoint: Checkpoint) -> nn.Module:
    from timm.layers.norm import LayerNorm
    from timm.models import VisionTransformer

    model: nn.Module = VisionTransformer(
        img_size=shape.size_px,
        patch_size=shape.patch_px,
        num_classes=0,
        embed_dim=shape.width,
        depth=shape.depth,
        num_heads=int(checkpoint.hints["num_heads"]),
        mlp_ratio=(shape.mlp_width + 0.5) / shape.width,  # timm truncates the product
        pre_norm=_has_first_norm(checkpoint),
        norm_layer=partial(LayerNorm, eps=float(checkpoint.hints["norm_eps"])),
        act_layer=checkpoint.hints["activation"],
    )
    return model


def _has_first_norm(checkpoint: Checkpoint) -> bool:
    """As CLIP's, which also has no bias in the patch embedding."""
    return "norm_pre.weight" in checkpoint.tensors


def _fit_to_named(layout: Layout, checkpoint: Checkpoint) -> Layout:
    """`layout` of one of timm's ViTs for a file whose positions may have another grid.

    The user's word for the activation counts more than the format's; heads and norms must be the file's.
    """
    from timm.layers.pos_embed import resample_abs_pos_embed

    model: Any = layout.trunk
    own = {"num_heads": str(model.blocks[0].attn.num_heads), "norm_eps": str(model.norm.eps)}
    heeded = ("activation", *(hint for hint, value in own.items() if checkpoint.hints[hint] == value))
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


def _scaled(preprocessing: Preprocessing, size_px: tuple[int, int]) -> Preprocessing:
    """The same for another size of image."""
    old = preprocessing.geometry
    resize = None if old.resize_px is None else round(old.resize_px * max(size_px) / max(old.size_px))
    return replace(preprocessing, geometry=replace(old, size_px=size_px, resize_px=resize))
