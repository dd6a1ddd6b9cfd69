"""Google's ViTs as NumPy archives, of the original paper and of AugReg."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from richrep.backbones.formats.format import Network, renamed, set_aside_note, split_off, state_dict_in
from richrep.backbones.formats.vit_tensors import read_vit_shape, vit_hints
from richrep.data.preprocessing import Geometry, Preprocessing
from richrep.errors import CheckpointError

_HALF = (0.5, 0.5, 0.5)
_MAX_UNITS = 36  # blocks of a stage in ResNet-152
_ATTENTION = "MultiHeadDotProductAttention_1"
_RULES = (
    (r"^cls$", "cls_token"),
    (r"^embedding/", "patch_embed.proj/"),
    (r"^Transformer/posembed_input/pos_embedding$", "pos_embed"),
    (r"^Transformer/encoder_norm/", "norm/"),
    (r"^Transformer/encoderblock_(\d+)/", r"blocks.\1."),
    (r"\.LayerNorm_0/", ".norm1/"),
    (r"\.LayerNorm_2/", ".norm2/"),
    (rf"\.{_ATTENTION}/out/", ".attn.proj/"),
    (rf"\.{_ATTENTION}/qkv/", ".attn.qkv/"),
    (r"\.MlpBlock_3/Dense_0/", ".mlp.fc1/"),
    (r"\.MlpBlock_3/Dense_1/", ".mlp.fc2/"),
    (r"/(kernel|scale)$", ".weight"),
    (r"/bias$", ".bias"),
)
_RESNET = "patch_embed.backbone"  # of a hybrid
_STAGE = re.compile(r"block\d+/unit\d+/")
_HYBRID_RULES = (
    (r"^conv_root/", f"{_RESNET}.stem.conv/"),
    (r"^gn_root/", f"{_RESNET}.stem.norm/"),
    *((rf"^block{stage + 1}/", f"{_RESNET}.stages.{stage}/") for stage in range(4)),
    *((rf"(stages\.\d)/unit{unit + 1}/", rf"\1.blocks.{unit}.") for unit in range(_MAX_UNITS)),
    (r"\.conv_proj/", ".downsample.conv/"),
    (r"\.gn_proj/", ".downsample.norm/"),
    (r"\.gn(\d)/", r".norm\1/"),
)
_STEM_ALONE = ((rf"^{_RESNET}\.stem\.", f"{_RESNET}."),)  # of a hybrid without stages


class VitNpzFormat:
    """Files of google-research/vision_transformer: flat names with '/', axes in the order of Flax.

    Hybrids, with a ResNet before the ViT, are among them: their names begin with conv_root, gn_root and block.
    """

    name = "vit-npz"
    description = "Google's ViT archives (.npz): Ti, S, B, L and H, any patch and resolution, and hybrids"

    def read(self, content: Mapping[str, Any], metadata: Mapping[str, str]) -> Sequence[Network]:
        """The ViT under timm's names, with its head.

        The files of the original paper have a hidden layer before the head, `pre_logits`. Features are taken before
        it, so both are set aside.
        """
        tensors = state_dict_in(content)
        if tensors is None or not {"embedding/kernel", "Transformer/encoder_norm/scale"} <= tensors.keys():
            return []
        if any(name.startswith("pre_logits/") for name in tensors):
            tensors, hidden = split_off(tensors, "pre_logits/", "head/")
            notes = set_aside_note("pre_logits and the head behind it", hidden)
        else:
            notes = ()
        num_heads = _num_heads(tensors)
        hybrid = _HYBRID_RULES if "conv_root/kernel" in tensors else ()
        stem = () if any(_STAGE.match(name) for name in tensors) else _STEM_ALONE
        network = renamed(_reordered(_with_fused_attention(tensors)), *hybrid, *(stem if hybrid else ()), *_RULES)
        size = read_vit_shape(network).size_px
        squashed = Preprocessing(Geometry((size, size), size, "bicubic"), _HALF, _HALF)
        return [
            Network(
                network,
                notes=("names and axes of Flax put into timm's", *notes),
                preprocessing=None if hybrid else squashed,  # the size of a hybrid's image is its architecture's
                hints=vit_hints(network, num_heads=num_heads),
            )
        ]


def _num_heads(tensors: Mapping[str, torch.Tensor]) -> int:
    """From the first query kernel (D, heads, D / heads)."""
    name = f"Transformer/encoderblock_0/{_ATTENTION}/query/kernel"
    kernel = tensors.get(name)
    if kernel is None or kernel.ndim != 3 or kernel.shape[0] != kernel.shape[1] * kernel.shape[2]:
        found = "missing" if kernel is None else f"of shape {tuple(kernel.shape)}"
        raise CheckpointError(f"{name} is {found}, expected (D, heads, D / heads). Download the file again.")
    return kernel.shape[1]


def _with_fused_attention(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Query, key and value of a block as one: kernel (D, 3 * D) and bias (3 * D)."""
    result = dict(tensors)
    for name in tensors:
        match = re.fullmatch(rf"(.*{_ATTENTION}/)query/(kernel|bias)", name)
        parts = [f"{match[1]}{part}/{match[2]}" for part in ("query", "key", "value")] if match else []
        if not match or not all(part in tensors for part in parts):  # the comparison names what is missing
            continue
        shapes = [tuple(tensors[part].shape) for part in parts]
        ndim = 3 if match[2] == "kernel" else 2  # (D, heads, D / heads) or (heads, D / heads)
        if len(set(shapes)) > 1 or len(shapes[0]) != ndim:
            raise CheckpointError(f"{', '.join(parts)} have the shapes {shapes}, expected one of {ndim} dimensions.")
        flat = [result.pop(part).flatten(start_dim=ndim - 2) for part in parts]
        result[f"{match[1]}qkv/{match[2]}"] = torch.cat(flat, dim=-1)
    return result


def _reordered(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Kernels with the axes of torch: (out, in) of a linear layer, (out, in, height, width) of a convolution."""

    def reorder(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if not name.endswith("/kernel"):
            return tensor.flatten() if re.search(r"(^|/)gn\w+/", name) else tensor  # (1, 1, 1, C) in some files
        if tensor.ndim == 4:
            return tensor.permute(3, 2, 0, 1)
        if tensor.ndim == 3 and name.endswith("/out/kernel"):  # (heads, D / heads, D)
            tensor = tensor.flatten(end_dim=1)
        return tensor.T if tensor.ndim == 2 else tensor

    return {name: reorder(name, tensor) for name, tensor in tensors.items()}
