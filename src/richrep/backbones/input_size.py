"""Images of another size than a network was laid out for: its positions are resampled, or an error says why not."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from richrep.backbones.backbone import Backbone
from richrep.backbones.checkpoint import Checkpoint
from richrep.backbones.concat import SideBySide
from richrep.data.preprocessing import Preprocessing
from richrep.errors import RichrepError

HINT = "input_px"  # of a checkpoint whose network was set to another size than its name says, "384x384"
REFUSALS = (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError)  # of timm's networks
_SIZE = re.compile(r"([1-9]\d{0,3})x([1-9]\d{0,3})")


def for_images_of(backbone: Backbone, preprocessing: Preprocessing) -> Backbone:
    """The backbone with `preprocessing`, and where its network has one size of image, a copy of it for the new one.

    timm's transformers are resampled (bicubic, as timm does); a convolutional network takes any size. One image is run
    through to see that it works.

    Raises:
        RichrepError: the network cannot take images of this size.
    """
    changed = replace(backbone, preprocessing=preprocessing)
    size = preprocessing.geometry.size_px
    if size == backbone.preprocessing.geometry.size_px:
        return changed
    try:
        if any(_sized(backbone.trunk)):
            changed = replace(changed, trunk=copy.deepcopy(backbone.trunk))
            for network in _sized(changed.trunk):
                set_size(network, size)
            shapes = {f"trunk.{name}": p.shape for name, p in changed.trunk.named_parameters()}
            masks = {n: mask for n, mask in backbone.masks.items() if shapes.get(n, mask.shape) == mask.shape}
            origin = backbone.origin
            if origin is not None:
                origin = replace(origin, hints={**origin.hints, HINT: f"{size[0]}x{size[1]}"})
            changed = replace(changed, masks=masks, origin=origin)
        weight = next(changed.trunk.parameters(), torch.empty(0))
        with torch.inference_mode():
            features = changed(torch.zeros(1, 3, *size, dtype=weight.dtype, device=weight.device))
        if features.shape != (1, backbone.feature_dim):
            raise ValueError(f"it gives {tuple(features.shape[1:])} features there, {backbone.feature_dim} else")
    except REFUSALS as error:
        own = backbone.preprocessing.geometry.size_px
        raise RichrepError(
            f"{backbone.address} cannot take images of {size[0]}x{size[1]} px: {str(error).rstrip('.')}. "
            f"Its own size is {own[0]}x{own[1]}; leave size out, or choose one that it can take."
        ) from None
    return changed


def set_size(network: nn.Module, size_px: tuple[int, int]) -> None:
    """Sets one of timm's transformers to images of `size_px`, in place."""
    model: Any = network
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch says of how timm resamples relative positions
        model.set_input_size(img_size=size_px)


def hinted_size(checkpoint: Checkpoint) -> tuple[int, int] | None:
    """The size that the network of a file was set to; None where the file says none that can be."""
    said = _SIZE.fullmatch(checkpoint.hints.get(HINT, ""))
    return (int(said[1]), int(said[2])) if said else None


def _sized(trunk: nn.Module) -> Iterator[nn.Module]:
    """The networks of a trunk, one or several side by side, that timm can set to another size of image."""
    if isinstance(trunk, SideBySide):
        for member in trunk.members:
            for part in member.children():
                yield from _sized(part)
    elif hasattr(trunk, "set_input_size"):
        yield trunk
