"""CLIP, of OpenAI and of open_clip: the visual tower, a ViT or a modified ResNet."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from richrep.backbones.formats.container import read_container
from richrep.backbones.formats.format import Network, renamed, set_aside_note, split_off, under
from richrep.backbones.formats.vit_tensors import QUICK_GELU, read_vit_shape, vit_hints
from richrep.data.preprocessing import Geometry, Preprocessing
from richrep.errors import CheckpointError

# openai/CLIP, clip/clip.py and clip/model.py
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_NORM_EPS = 1e-5
_RESNET_STRIDE = 32  # pixels per position of the attention pooling
_OPENAI_ONLY = {"input_resolution", "context_length", "vocab_size"}  # in the state dicts of OpenAI's archives

_VIT_RULES = (
    (r"^conv1\.", "patch_embed.proj."),
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
_VIT_MODULES = {"patch_embed", "cls_token", "pos_embed", "norm_pre", "blocks", "norm"}
_RESNET_RULES = (
    (r"^(conv|bn)(\d)\.", r"stem.conv\2.\1."),
    *((rf"^layer{stage + 1}\.", f"stages.{stage}.") for stage in range(4)),
    (r"^(stages\.\d+\.\d+)\.(conv|bn)1\.", r"\1.conv1_1x1.\2."),
    (r"^(stages\.\d+\.\d+)\.(conv|bn)2\.", r"\1.conv2_kxk.\2."),
    (r"^(stages\.\d+\.\d+)\.(conv|bn)3\.", r"\1.conv3_1x1.\2."),
    (r"\.downsample\.0\.", ".shortcut.conv.conv."),
    (r"\.downsample\.1\.", ".shortcut.conv.bn."),
    (r"^attnpool\.positional_embedding$", "head.pos_embed"),
    (r"^attnpool\.([qkv])_proj\.", r"head.\1."),
)


class ClipFormat:
    """State dicts with `visual.*`, flat (OpenAI, open_clip) or under `state_dict` as `module.visual.*` (open_clip).

    Features are what comes before the projection into the space shared with texts.
    """

    name = "clip"
    description = "CLIP of OpenAI and open_clip: the visual tower, ViT or ResNet"

    def read(self, content: Mapping[str, Any], metadata: Mapping[str, str]) -> Sequence[Network]:
        """The visual tower under timm's names; its projection and the text tower are set aside."""
        tensors, notes = read_container(content, "state_dict")
        tower = under(tensors, "visual.")
        body, projection = split_off(tower, r"proj$", r"attnpool\.c_proj\.")
        _, others = split_off(tensors, r"(?!visual\.)")
        notes += set_aside_note("projection", projection) + set_aside_note("text tower", others)
        if "class_embedding" in body:
            return [_read_vit(body, notes, *_activation(content, others))]
        if "attnpool.positional_embedding" in body:
            return [_read_resnet(body, notes)]
        if "logit_scale" in others and any(name.startswith("trunk.") for name in tower):
            raise CheckpointError(
                "its visual tower is a network of timm (visual.trunk.*), expected CLIP's own ViT or ResNet. Open it as "
                "PATH#visual.trunk, or timm/NAME@PATH#visual.trunk."
            )
        return []


def _activation(content: Mapping[str, Any], others: Mapping[str, torch.Tensor]) -> tuple[str, str]:
    """What follows the first layer of an MLP, which no tensor says, and how that is known.

    OpenAI trained with QuickGELU, x * sigmoid(1.702 x); open_clip with GELU unless its model is called "quickgelu".
    Empty when the file does not say: open_clip also writes OpenAI's weights, and QuickGELU goes with some text towers.
    """
    if _OPENAI_ONLY & others.keys():
        return QUICK_GELU, "QuickGELU, as the file has the tensors of OpenAI's archives"
    name = content.get("name")
    if isinstance(name, str) and "state_dict" in content and re.search(r"ViT-|quickgelu", name):
        quick = "quickgelu" in name
        return (QUICK_GELU if quick else "gelu"), f"{'Quick' * quick}GELU, by open_clip's name of the run {name!r}"
    return "", "not said by the file, so as in the architecture's name"


def _read_vit(tower: Mapping[str, torch.Tensor], notes: tuple[str, ...], activation: str, reason: str) -> Network:
    network = renamed(tower, *_VIT_RULES)
    foreign = [name for name in network if name.partition(".")[0] not in _VIT_MODULES]
    if foreign:
        raise CheckpointError(
            f"its visual tower also holds {', '.join(foreign[:4])}; expected CLIP's ViT and nothing else. Variants "
            "with their own pooling or norms are not supported."
        )
    if "norm_pre.weight" not in network:
        raise CheckpointError(
            "its visual tower has no ln_pre.weight, expected CLIP's ViT. The file is not complete, or it is a variant "
            "that averages the patches, which is not supported."
        )
    network |= {"cls_token": network["cls_token"][None, None]}  # (1, 1, D)
    if "pos_embed" in network:
        network |= {"pos_embed": network["pos_embed"][None]}  # (1, 1 + G * G, D)
    return Network(
        network,
        notes=(f"activation: {reason}", *notes),
        preprocessing=_preprocessing(read_vit_shape(network).size_px),
        hints=vit_hints(network, norm_eps=_NORM_EPS, activation=activation),
    )


def _read_resnet(tower: Mapping[str, torch.Tensor], notes: tuple[str, ...]) -> Network:
    network = renamed(tower, *_RESNET_RULES)
    positions = network["head.pos_embed"].shape[:1].numel()  # of the grid, and one for its mean
    grid = max(math.isqrt(max(positions - 1, 0)), 1)
    return Network(network, notes=notes, preprocessing=_preprocessing(grid * _RESNET_STRIDE))


def _preprocessing(size_px: int) -> Preprocessing:
    return Preprocessing(Geometry((size_px, size_px), size_px, "bicubic"), _MEAN, _STD)
