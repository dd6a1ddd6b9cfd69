"""How deep every parameter of a network lies, for learning rates that fall from the head to the first layer."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from richrep.backbones.concat import SideBySide
from richrep.backbones.families.side_by_side import SideBySide as ModelsOfOneFile
from richrep.training.norms import is_norm

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def distances_from_head(trunk: nn.Module) -> dict[nn.Parameter, int]:
    """Layers between every parameter of `trunk` and the head: 1 for the last layer, more for those before.

    Members of a concatenation are counted each by itself. What is one layer: for a timm model what its `group_matcher`
    says, as timm's `param_groups_layer_decay` does. For others: lists (nn.Sequential and the like) are opened and so is
    a module that holds one stack of equal blocks; every part found that way is one layer, in the order of definition.
    Norms join the layer before them, and parameters that belong to no part (tokens, positions) the first one. For
    ResNets and ViTs that is what timm says.

    Source: Bao et al., BEiT, 2021, https://arxiv.org/abs/2106.08254, and timm's implementation.
    """
    return {
        parameter: distance for tower in _towers(trunk) for parameter, distance in _distances_in_tower(tower).items()
    }


def _towers(module: nn.Module) -> Iterator[nn.Module]:
    """The networks that run side by side in `module`; itself when it is only one."""
    if isinstance(module, SideBySide):
        inside = list(module.members)
    elif isinstance(module, ModelsOfOneFile):
        inside = [child for name, child in module.named_children() if name != "pools"]
    else:
        inside = _parts_with_parameters(module)
        if hasattr(module, "group_matcher") or module._parameters or len(inside) != 1:
            yield module
            return
    for network in inside:
        yield from _towers(network)


def _distances_in_tower(tower: nn.Module) -> dict[nn.Parameter, int]:
    if hasattr(tower, "group_matcher"):
        return _distances_by_timm(tower)
    layers = _layers(tower)
    inside = {parameter for layer in layers for part in layer for parameter in part.parameters()}
    distances = {
        parameter: len(layers) - i
        for i, layer in enumerate(layers)
        for part in layer
        for parameter in part.parameters()
    }
    return {parameter: distances[parameter] if parameter in inside else len(layers) for parameter in tower.parameters()}


def _distances_by_timm(model: nn.Module) -> dict[nn.Parameter, int]:
    from timm.models._manipulate import group_with_matcher

    head = "\0head"  # matches nothing, and timm puts what matches nothing last: there the head of the whole model lies
    names = [(name, None) for name, _ in model.named_parameters()]
    matcher = model.group_matcher(coarse=False)  # type: ignore[operator]
    layers = group_with_matcher(iter([*names, (head, None)]), matcher, reverse=True)
    return {parameter: layers[head] - layers[name] for name, parameter in model.named_parameters()}


def _layers(module: nn.Module) -> list[list[nn.Module]]:
    """The layers of `module` in order, each as its parts: a block, and the norms that follow it."""
    layers: list[list[nn.Module]] = []
    for part in _parts(module):
        if layers and all(is_norm(leaf) for leaf in part.modules() if leaf._parameters):
            layers[-1].append(part)
        else:
            layers.append([part])
    return layers


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    for child in _parts_with_parameters(module):
        if isinstance(child, _CONTAINERS) or type(child) is nn.Module or sum(map(_is_stack, child.children())) == 1:
            yield from _parts(child)
        else:
            yield child


def _parts_with_parameters(module: nn.Module) -> list[nn.Module]:
    return [child for child in module.children() if next(child.parameters(), None) is not None]


def _is_stack(module: nn.Module) -> bool:
    """Whether `module` is a list of two or more blocks of one class, e.g. the layers of an encoder."""
    if not isinstance(module, _CONTAINERS):
        return False
    parts = list(module.children())
    return len(parts) > 1 and len({type(part) for part in parts}) == 1 and next(parts[0].children(), None) is not None
