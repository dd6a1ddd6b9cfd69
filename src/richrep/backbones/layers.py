"""Inner layers of a backbone as backbones of their own: the trunk up to a layer, then the mean over places."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from richrep.backbones.backbone import Backbone
from richrep.errors import AddressError, CheckpointError, unknown_name_message


def layer_names(backbone: Backbone) -> list[str]:
    """Names of the modules inside the trunk, in the order of definition."""
    return [name for name, _ in backbone.trunk.named_modules() if name]


def with_layer(backbone: Backbone, layer: str) -> Backbone:
    """The backbone whose features (B, C) are the output of the module `layer`, averaged over pixels or tokens.

    What comes after the layer is left out, so inner layers cost less than the whole. Weights are shared, not copied.

    Raises:
        AddressError: the trunk has no module of that name.
        CheckpointError: the trunk cannot be cut there: its code cannot be traced, or the layer gives no feature map.
    """
    if layer not in layer_names(backbone):
        raise AddressError(f"{backbone.address}: {unknown_name_message('layer', layer, layer_names(backbone))}")
    trunk = LayerOutput(_cut(backbone, layer), layer).eval()
    size = backbone.preprocessing.geometry.size_px
    with torch.no_grad():
        shape = tuple(trunk(torch.zeros(1, 3, *size)).shape)
    pool, width = _pool_for(shape, f"{backbone.address}: layer {layer!r}")
    return replace(
        backbone,
        trunk=trunk,
        pool=pool,
        head=None,
        num_classes=None,
        address=f"{backbone.address}:layer={layer}",
        name=f"{backbone.name}.{layer}",
        feature_dim=width,
        variant="; ".join(filter(None, (backbone.variant, f"up to layer {layer}"))),
        masks={},
        mask_source="",
        origin=None,
    )


def with_layers(backbones: Sequence[Backbone], layers: Sequence[str]) -> list[Backbone]:
    """Each backbone, followed by its inner layers among `layers`; a backbone without one of them goes on without it.

    A layer named twice counts once.

    Raises:
        AddressError: a layer that no backbone has.
    """
    layers = list(dict.fromkeys(layers))
    for layer in layers:
        if not any(layer in layer_names(backbone) for backbone in backbones):
            known = dict.fromkeys(name for backbone in backbones for name in layer_names(backbone))
            raise AddressError(f"No backbone has the layer {layer!r}. {unknown_name_message('layer', layer, known)}")
    members = []
    for backbone in backbones:
        members += [backbone, *(with_layer(backbone, layer) for layer in layers if layer in layer_names(backbone))]
    return members


class LayerOutput(nn.Module):
    """A traced trunk that ends at one layer."""

    def __init__(self, traced: nn.Module, layer: str) -> None:
        super().__init__()
        self.traced = traced
        self.layer = layer

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> what the layer gives."""
        output: torch.Tensor = self.traced(images)[self.layer]
        return output

    def extra_repr(self) -> str:
        """The layer, so that the structure's fingerprint knows it."""
        return self.layer


class MeanOverPlaces(nn.Module):
    """Maps (B, C, H, W), maps (B, H, W, C), tokens (B, T, C) or vectors (B, C) -> (B, C)."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(B, …) -> (B, C)."""
        return values.mean(self.dims) if self.dims else values

    def extra_repr(self) -> str:
        """The dimensions that are averaged."""
        return str(self.dims)


def _cut(backbone: Backbone, layer: str) -> nn.Module:
    """torchvision's feature extractor: the trunk traced, and all that `layer` does not need removed."""
    from torchvision.models.feature_extraction import create_feature_extractor

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the traced graph of training mode may differ: it is never trained
            traced: nn.Module = create_feature_extractor(backbone.trunk.eval(), {layer: layer})
    except Exception as error:  # tracing runs the network's own code, which may fail in any way
        raise CheckpointError(
            f"{backbone.address}: the network cannot be cut at layer {layer!r}: {str(error).splitlines()[0]} "
            "Leave the layer out."
        ) from error
    return traced


def _pool_for(shape: tuple[int, ...], what: str) -> tuple[nn.Module, int]:
    """The pooling for an output of `shape`, and its width; maps are taken for square when they are."""
    if len(shape) == 4 and (shape[2] == shape[3] or shape[1] != shape[2]):
        return MeanOverPlaces((2, 3)), shape[1]
    if len(shape) == 4:
        return MeanOverPlaces((1, 2)), shape[3]
    if len(shape) == 3:
        return MeanOverPlaces((1,)), shape[2]
    if len(shape) == 2:
        return MeanOverPlaces(()), shape[1]
    raise CheckpointError(f"{what} gives shape {shape} for one image, a map, tokens or a vector was expected.")
