"""ViTs of any size, their shape read from the tensors, or spelled out in the address."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from richrep.backbones.checkpoint import Checkpoint
from richrep.backbones.families.family import Layout, linear_head
from richrep.backbones.families.library_index import load_index
from richrep.backbones.families.metadata import read_preprocessing
from richrep.backbones.families.timm_models import TimmFamily
from richrep.backbones.formats.vit_tensors import (
    MAX_DEPTH,
    QUICK_GELU,
    VitShape,
    imagenet_preprocessing,
    is_described,
    is_hybrid,
    pools_patches,
    read_vit_shape,
)
from richrep.backbones.input_size import HINT, hinted_size
from richrep.errors import CheckpointError

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


@dataclass(frozen=True)
class _Choices:
    """What no tensor says: depth (of what the file should hold), heads of the attention, activation, the norms' eps."""

    depth: int
    num_heads: int
    activation: str
    norm_eps: float


class VitFamily:
    """Dosovitskiy et al. An Image is Worth 16x16 Words, ICLR 2021, https://arxiv.org/abs/2010.11929; timm's network.

    Detects only files of formats with the hints of formats/vit_tensors.py, and of those the depths that were published:
    a network that lost its last blocks looks like a shallower one. Any other is opened by a name that spells it out,
    e.g. `vit_768x11_heads12_patch16_224@PATH`: width x depth, heads, patch, picture. Features are the class token after
    the last norm, or the normalised average of the patches where the file has `fc_norm`. A file opened by the name of
    one of timm's ViTs may have other positions: they are resampled.
    """

    name = "vit"
    yields_to: tuple[str, ...] = ()
    spelled = r"vit_\d+x(\d+)_heads(\d+)_patch\d+_(clip_)?(quickgelu_)?\d+"

    def architectures(self) -> Mapping[str, str]:
        """Those of timm's that the formats use."""
        entries = load_index("timm").entries
        return {name: entry.describe() for name, entry in entries.items() if _NAMED.fullmatch(name)}

    def tags(self, architecture: str) -> Sequence[str]:
        """None: the format says the preprocessing."""
        return ()

    def detect(self, checkpoint: Checkpoint) -> Sequence[str]:
        """The one that tensors and hints say. Raises CheckpointError when it must be spelled out."""
        if not is_described(checkpoint.hints) or is_hybrid(checkpoint.tensors):
            return []
        _check_published(checkpoint)
        if "activation" not in checkpoint.hints:
            names = " or ".join(_name(checkpoint, activation) + _at(checkpoint) for activation in (QUICK_GELU, "gelu"))
            raise CheckpointError(
                f"{checkpoint.path} does not say which activation its MLPs have: QuickGELU, as OpenAI trained, or "
                f"GELU, as open_clip usually does. Name the right one: {names}."
            )
        return [_name(checkpoint, checkpoint.hints["activation"])]

    def nearest(self, checkpoint: Checkpoint) -> Sequence[str]:
        """None: `detect` names the nearest already."""
        return ()

    def lay_out(self, architecture: str, checkpoint: Checkpoint) -> Layout:
        """Trunk without classifier; head `head`."""
        if spelled := re.fullmatch(self.spelled, architecture):
            return _lay_out(_spelled_choices(spelled, checkpoint), checkpoint)
        hints = checkpoint.hints
        if "activation" in hints and _is_called(architecture, _name(checkpoint, hints["activation"]), checkpoint):
            choices = _Choices(
                read_vit_shape(checkpoint.tensors).depth,
                _heads(checkpoint),
                hints["activation"],
                float(hints["norm_eps"]),
            )
            return _lay_out(choices, checkpoint)
        return TimmFamily().lay_out(architecture, checkpoint)


def _heads(checkpoint: Checkpoint) -> int:
    """As the format says; of widths that nobody published, as many as have 64 values each."""
    return int(checkpoint.hints.get("num_heads", max(read_vit_shape(checkpoint.tensors).width // 64, 1)))


def _name(checkpoint: Checkpoint, activation: str) -> str:
    """As timm would call it; of unusual sizes, spelled out."""
    shape, heads = read_vit_shape(checkpoint.tensors), _heads(checkpoint)
    size = _SIZES.get((shape.width, shape.depth, heads), f"{shape.width}x{shape.depth}_heads{heads}")
    clip = "clip_" if _has_first_norm(checkpoint) else ""
    quick = "quickgelu_" if activation == QUICK_GELU else ""
    return f"vit_{size}_patch{shape.patch_px}_{clip}{quick}{shape.size_px}"


def _is_called(name: str, own: str, checkpoint: Checkpoint) -> bool:
    """Whether `name` is its own; the size in it does not count where the network was set to another."""
    last = re.compile(r"\d+$")
    return name == own or (HINT in checkpoint.hints and last.sub("", name) == last.sub("", own))


def _at(checkpoint: Checkpoint) -> str:
    """What follows ARCH in an address."""
    return f"@{checkpoint.path}" + (f"#{checkpoint.network}" if checkpoint.network else "")


def _check_published(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError when no published ViT has this width and depth, as blocks may be missing."""
    shape = read_vit_shape(checkpoint.tensors)
    vits = [e.trunk for e in load_index("timm").entries.values() if {"cls_token", "blocks", "norm"} <= e.trunk.keys()]
    per_block = 4 * shape.width**2 + 2 * shape.width * shape.mlp_width + shape.mlp_width + 9 * shape.width
    same_width = [vit["blocks"] for vit in vits if vit["norm"] == 2 * shape.width]
    depths = sorted({values // per_block for values in same_width if values % per_block == 0})
    if shape.depth in depths:
        return
    known = f"those of this width have {', '.join(map(str, depths))}" if depths else "none has this width"
    name = _name(checkpoint, checkpoint.hints.get("activation", "gelu"))
    raise CheckpointError(
        f"{checkpoint.path} holds a ViT of width {shape.width} with {shape.depth} blocks; of the published ViTs, "
        f"{known}. If blocks are missing, get the whole file. If it was trained like this, say so, with the heads that "
        f"it was trained with: {name}{_at(checkpoint)}."
    )


def _spelled_choices(spelled: re.Match[str], checkpoint: Checkpoint) -> _Choices:
    """By the name; what it does not say, by the format, or as in ViT and CLIP."""
    shape, depth, num_heads = read_vit_shape(checkpoint.tensors), int(spelled[1]), int(spelled[2])
    clip, quick = "clip_" if _has_first_norm(checkpoint) else "", spelled[4] or ""
    own = f"vit_{shape.width}x{depth}_heads{num_heads}_patch{shape.patch_px}_{clip}{quick}{shape.size_px}"
    if not _is_called(spelled[0], own, checkpoint):
        raise CheckpointError(
            f"{checkpoint.path} does not hold {spelled[0]}: by its width, patches, first norm and positions it could "
            f"be {own}. Correct the name."
        )
    norm_eps = float(checkpoint.hints.get("norm_eps", 1e-5 if spelled[3] else 1e-6))
    return _Choices(depth, num_heads, QUICK_GELU if spelled[4] else "gelu", norm_eps)


def _lay_out(choices: _Choices, checkpoint: Checkpoint) -> Layout:
    shape = read_vit_shape(checkpoint.tensors)
    if not 1 <= choices.depth <= MAX_DEPTH or choices.num_heads < 1 or shape.width % choices.num_heads:
        raise CheckpointError(
            f"{checkpoint.path} is to be a ViT of {choices.depth} blocks and {choices.num_heads} heads, expected 1 to "
            f"{MAX_DEPTH} blocks, and heads that share the {shape.width} values of a token evenly. Correct the name "
            "before '@' where there is one; else the file is damaged."
        )
    assumed = imagenet_preprocessing(shape.size_px, "bicubic")
    preprocessing, note = read_preprocessing(checkpoint, assumed, "ImageNet mean and std")
    own_heads = checkpoint.hints.get("num_heads", str(choices.num_heads)) == str(choices.num_heads)
    own_activation = choices.activation == QUICK_GELU or checkpoint.hints.get("activation") != QUICK_GELU
    heads_and_activation = [*(["activation"] if own_activation else []), *(["num_heads"] if own_heads else [])]
    return Layout(
        trunk=_make_trunk(shape, choices, checkpoint),
        preprocessing=preprocessing,
        feature_dim=shape.width,
        tensors=checkpoint.tensors,
        notes=(note,),
        heeded=("norm_eps", "pool", HINT, *heads_and_activation),
        **linear_head(checkpoint.tensors, "head", width=shape.width),
    )


def _make_trunk(shape: VitShape, choices: _Choices, checkpoint: Checkpoint) -> nn.Module:
    from timm.layers.norm import LayerNorm
    from timm.models import VisionTransformer

    model: nn.Module = VisionTransformer(
        img_size=hinted_size(checkpoint) or shape.size_px,
        patch_size=shape.patch_px,
        global_pool="avg" if pools_patches(checkpoint.tensors) else "token",
        num_classes=0,
        embed_dim=shape.width,
        depth=choices.depth,
        num_heads=choices.num_heads,
        mlp_ratio=(shape.mlp_width + 0.5) / shape.width,  # timm truncates the product
        pre_norm=_has_first_norm(checkpoint),
        norm_layer=partial(LayerNorm, eps=choices.norm_eps),
        act_layer=choices.activation,
    )
    return model


def _has_first_norm(checkpoint: Checkpoint) -> bool:
    """As CLIP's, which also has no bias in the patch embedding."""
    return "norm_pre.weight" in checkpoint.tensors
