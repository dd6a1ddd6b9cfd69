"""RigL: ResNet50 under the names of its TensorFlow variables, as exported by name into a numpy archive."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from richrep.backbones.formats.format import Network, set_aside_note, state_dict_in
from richrep.backbones.formats.pruned import Tensors, as_mask, make_network
from richrep.errors import CheckpointError

_SCOPE = "resnet_model/"
_STEM = f"{_SCOPE}initial_conv/weights"
_BLOCKS = (3, 4, 6, 3)  # of ResNet-50, per stage
_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


class RiglTensorFlowFormat:
    """Variables of google-research/rigl: `resnet_model/SCOPE/weights`, `…/mask`, `…/batch_normalization_7/gamma`.

    Kernels are (height, width, in, out), and are stored as they were before the mask. BatchNorms are numbered in the
    order in which they were made: the stem's, then of every block the shortcut's, the first, second and third.
    """

    name = "rigl-tf"
    description = "RigL: ResNet50 as TensorFlow variables by name (`.npz`), with masks"

    def read(self, content: Mapping[str, Any], metadata: Mapping[str, str]) -> Sequence[Network]:
        """The network under torchvision's names, masks applied."""
        stored = {re.sub(r":0$", "", name): tensor for name, tensor in (state_dict_in(content) or {}).items()}
        if _STEM not in stored:
            return []
        convs = _convolutions()
        weights: Tensors = {}
        masks: Tensors = {}
        used: set[str] = set()
        for number, (scope, (conv, norm)) in enumerate(convs.items()):
            weights[f"{conv}.weight"] = _kernel(_find(stored, f"{_SCOPE}{scope}/weights", used))
            if f"{_SCOPE}{scope}/mask" in stored:
                mask = _kernel(_find(stored, f"{_SCOPE}{scope}/mask", used))
                masks[f"{conv}.weight"] = as_mask(f"{conv}.weight", mask, weights)
            start = f"{_SCOPE}batch_normalization{f'_{number}' if number else ''}"
            weights |= {f"{norm}.{ours}": _find(stored, f"{start}/{theirs}", used) for theirs, ours in _NORM.items()}
        weights["fc.weight"] = _find(stored, f"{_SCOPE}final_dense/weights", used).T
        weights["fc.bias"] = _find(stored, f"{_SCOPE}final_dense/biases", used)
        if f"{_SCOPE}final_dense/mask" in stored:
            mask = _find(stored, f"{_SCOPE}final_dense/mask", used).T
            masks["fc.weight"] = as_mask("fc.weight", mask, weights)
        notes: tuple[str, ...] = ("names and axes of TensorFlow put into RigL's of PyTorch",)
        notes += set_aside_note("what is no weight", [name for name in stored if name not in used])
        return [replace(make_network(weights, masks, notes=notes), family="rigl")]


def _convolutions() -> dict[str, tuple[str, str]]:
    """Scope -> RigL's PyTorch names of the convolution and of its BatchNorm, in the order in which they were made."""
    found = {"initial_conv": ("initial_conv.conv", "initial_conv.bn")}
    for stage, blocks in enumerate(_BLOCKS, start=1):
        for block in range(blocks):
            own = f"layer{stage}.block.{block}"
            if block == 0:
                scope = f"block_group_projection_block_group{stage}"
                found[f"bottleneck_projection_{scope}"] = (f"{own}.shortcut.conv", f"{own}.shortcut.bn")
            else:
                scope = f"block_group{stage}_{block}_1"
            for i in (1, 2, 3):
                found[f"bottleneck_{i}_{scope}"] = (f"{own}.conv{i}.conv", f"{own}.conv{i}.bn")
    return found


def _find(stored: Mapping[str, torch.Tensor], name: str, used: set[str]) -> torch.Tensor:
    if name not in stored:
        raise CheckpointError(f"{name!r} is missing. Export all variables of the checkpoint, under their own names.")
    used.add(name)
    return stored[name]


def _kernel(kernel: torch.Tensor) -> torch.Tensor:
    """(height, width, in, out) -> (out, in, height, width)."""
    if kernel.ndim != 4:
        raise CheckpointError(f"a kernel has shape {tuple(kernel.shape)}, expected (height, width, in, out).")
    return kernel.permute(3, 2, 0, 1)
