"""The masks of a pruned network: inferred from zeros where the file has none, and counted as the papers count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from richrep.backbones.backbone import Backbone, MaskSource

MIN_ZEROS = 0.01  # share of exact zeros from which a layer without mask counts as pruned; chance gives next to none


@dataclass(frozen=True)
class LayerSparsity:
    """One convolution or linear layer.

    Attributes:
        name: "trunk.conv1", "head".
        shape: of the weight.
        weights: values of the weight.
        zeros: of them, those pruned: masked out, or exactly zero where the file had no masks at all.
        biases: values of the bias, 0 without one.
        pruned_biases: of them, those masked out.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    zeros: int
    biases: int = 0
    pruned_biases: int = 0

    @property
    def sparsity(self) -> float:
        """Share of the weight's values that are pruned, in [0, 1]; biases do not count."""
        return self.zeros / self.weights if self.weights else 0.0


@dataclass(frozen=True)
class Sparsity:
    """How sparse a backbone is, in [0, 1].

    Attributes:
        layers: every prunable layer, in order: convolutions and linear layers, the head's included.
        backbone: share of the trunk's prunable weights that are pruned.
        prunable: the same with the head's weights: the nominal sparsity of the papers.
        overall: share of zeros in the whole model, with biases and normalisation layers.
        values: how many numbers `overall` counts.
        source: where the masks come from: "file", "zeros" (weights that are exactly zero), "" without masks.
    """

    layers: tuple[LayerSparsity, ...]
    backbone: float
    prunable: float
    overall: float
    values: int
    source: MaskSource


def infer_masks(trunk: nn.Module, head: nn.Module | None) -> dict[str, torch.Tensor]:
    """weight != 0 for every convolution and linear layer of which at least `MIN_ZEROS` is exactly zero."""
    masks = {}
    for name, layer in prunable_layers(trunk, head):
        weight = layer.weight.detach()
        if not weight.numel() or weight.abs().amin() > 0:  # the usual case, and four times as fast as counting
            continue
        if _zeros_in(weight) >= MIN_ZEROS * weight.numel():
            masks[f"{name}.weight"] = weight != 0
    return masks


def prunable_layers(trunk: nn.Module, head: nn.Module | None) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
    """Every nn.Conv2d and nn.Linear, as "trunk.layer1.0.conv1" or "head"."""
    for name, module in _named_modules(trunk, head):
        if isinstance(module, nn.Conv2d | nn.Linear):
            yield name, module


def measure_sparsity(backbone: Backbone) -> Sparsity:
    """Counts by the masks; layers without mask by their exact zeros, unless the file said that it has no mask there.

    Source: IST-DASLab/sparse-imagenet-transfer counts mask zeros of wrapped layers, biases included, and exact zeros of
    the other modules that have a weight. Differs: layers without mask may count by their zeros.
    """
    layers = tuple(_count(name, layer, backbone) for name, layer in prunable_layers(backbone.trunk, backbone.head))
    trunk = [layer for layer in layers if layer.name.startswith("trunk")]
    zeros = sum(layer.zeros + layer.pruned_biases for layer in layers)
    values = sum(layer.weights + layer.biases for layer in layers)
    for _, module in _named_modules(backbone.trunk, backbone.head):
        if not isinstance(module, nn.Conv2d | nn.Linear):
            for parameter in (module._parameters.get("weight"), module._parameters.get("bias")):
                if parameter is not None and module._parameters.get("weight") is not None:
                    zeros += _zeros_in(parameter)
                    values += parameter.numel()
    return Sparsity(
        layers=layers,
        backbone=_share(trunk),
        prunable=_share(layers),
        overall=zeros / values if values else 0.0,
        values=values,
        source=backbone.mask_source,
    )


def describe_masks(
    masks: Mapping[str, torch.Tensor], source: MaskSource, *, trunk: nn.Module, head: nn.Module | None
) -> tuple[str, ...]:
    """A sentence for the load report; nothing without masks."""
    if not masks:
        return ("masks in the file prune nothing",) if source == "file" else ()
    pruned = sum(mask.numel() - int(mask.sum()) for mask in masks.values())
    share = pruned / sum(mask.numel() for mask in masks.values())
    origin = "from the file" if source == "file" else "inferred from weights that are exactly zero"
    said = f"masks: {len(masks)} weights, {share:.1%} of their values pruned, {origin}"
    left = sum(f"{name}.weight" not in masks for name, _ in prunable_layers(trunk, head))
    if source == "zeros" and left:
        said += f"; none for {left} layer{'s' * (left > 1)} with under {MIN_ZEROS:.0%} zeros"
    return (said,)


def _named_modules(trunk: nn.Module, head: nn.Module | None) -> Iterator[tuple[str, nn.Module]]:
    for part, network in (("trunk", trunk), ("head", head)):
        if network is not None:
            for name, module in network.named_modules():
                yield (f"{part}.{name}" if name else part), module


def _count(name: str, layer: nn.Conv2d | nn.Linear, backbone: Backbone) -> LayerSparsity:
    mask, bias_mask = backbone.masks.get(f"{name}.weight"), backbone.masks.get(f"{name}.bias")
    if mask is not None:
        zeros = mask.numel() - int(mask.sum())
    else:
        zeros = 0 if backbone.mask_source == "file" else _zeros_in(layer.weight)
    return LayerSparsity(
        name=name,
        shape=tuple(layer.weight.shape),
        weights=layer.weight.numel(),
        zeros=zeros,
        biases=layer.bias.numel() if layer.bias is not None else 0,
        pruned_biases=bias_mask.numel() - int(bias_mask.sum()) if bias_mask is not None else 0,
    )


def _zeros_in(tensor: torch.Tensor) -> int:
    return tensor.numel() - int(torch.count_nonzero(tensor.detach()))


def _share(layers: list[LayerSparsity] | tuple[LayerSparsity, ...]) -> float:
    weights = sum(layer.weights for layer in layers)
    return sum(layer.zeros for layer in layers) / weights if weights else 0.0
