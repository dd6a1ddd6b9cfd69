"""What the files of pruned networks share: masks and thresholds in several spellings, and names of their own.

A pruned layer X is stored as `X._layer.weight` with `X._weight_mask` (wrapped layers), as `X.weight_orig` with
`X.weight_mask` (torch.nn.utils.prune), or as `X.weight` with `X.sparseThreshold` (STR). The weight of the forward pass
is their product, or what the threshold leaves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from richrep.backbones.formats.format import Network, renamed, set_aside_note, state_dict_in
from richrep.data.preprocessing import Geometry, Preprocessing
from richrep.errors import CheckpointError

Tensors = dict[str, torch.Tensor]

PROJECTS = ("sparse", "str", "lottery", "m-fac", "rigl")  # formats of pruned networks, keys of FORMATS

# Names of MobileNetV1 in mit-han-lab/amc -> those of the other MobileNetV1 files
AMC_NAMES = (
    (r"^conv1\.(\d+)\.", r"model.0.\1."),
    *((rf"^features\.{i}\.", f"model.{i + 1}.") for i in range(13)),
    (r"^classifier\.0\.", "fc."),
)
# RigL's names of ResNet50 -> torchvision's
_RIGL_NAMES = (
    (r"^initial_conv\.conv\.", "conv1."),
    (r"^initial_conv\.bn\.", "bn1."),
    (r"^(layer\d+)\.block\.(\d+)\.conv(\d+)\.conv\.", r"\1.\2.conv\3."),
    (r"^(layer\d+)\.block\.(\d+)\.conv(\d+)\.bn\.", r"\1.\2.bn\3."),
    (r"^(layer\d+)\.block\.(\d+)\.shortcut\.conv\.", r"\1.\2.downsample.0."),
    (r"^(layer\d+)\.block\.(\d+)\.shortcut\.bn\.", r"\1.\2.downsample.1."),
)
_RESNETS = {  # (whether blocks have three convolutions, blocks per stage) -> architecture
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
    (True, (3, 8, 36, 3)): "resnet152",
}
_STEM_VALUES = 64 * 3 * 7 * 7  # of a ResNet for 224-pixel images
_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+")
_CONTAINERS = ("state_dict", "model", "model_state_dict")  # in which a network may lie
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}  # what masks and thresholds may apply to
_LISTED = 6


@dataclass(frozen=True)
class PrunedFile:
    """The network in a file of one of the projects.

    Attributes:
        tensors: without leading `module.` and `_orig_mod.`, else as stored.
        notes: where they were and what lies beside them.
    """

    tensors: Tensors
    notes: tuple[str, ...]


def find_pruned(content: Mapping[str, Any], project: str) -> PrunedFile | None:
    """The network when the file is one of `project`, a key of FORMATS, else None.

    Every file belongs to at most one project, so that no two formats of pruned networks claim the same one.
    """
    config = content.get("model_config")
    is_common = isinstance(config, Mapping) and "arch" in config
    keys = ("model_state_dict",) if is_common else _CONTAINERS
    key = next((key for key in keys if state_dict_in(content, key)), "")
    tensors = state_dict_in(content, key) if key else state_dict_in(content)
    if not tensors or (is_common and not key):
        return None
    if project != ("sparse" if is_common else _project_by_names(tensors, content.get("mask") if key else None)):
        return None
    odd = [name for name, t in tensors.items() if t.layout != torch.strided or t.is_quantized or t.is_meta]
    if odd:
        raise CheckpointError(f"{odd[0]!r} is a {tensors[odd[0]].layout} or quantised tensor, expected a dense one.")
    others = [str(name) for name in content if name not in (key, "mask", "init_weight", "model_config")]
    aside = f"; set aside: {', '.join(others)}" if others else ""
    return PrunedFile(without_leading_wrappers(tensors), (f"read from {key!r}{aside}",) if key else ())


def _project_by_names(tensors: Tensors, mask: object) -> str:
    names = {_WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
    if any(name.endswith("._layer.weight") for name in names):
        return "sparse"
    if isinstance(mask, torch.Tensor) and mask.ndim == 1:
        return "m-fac"
    masked = isinstance(mask, Mapping) and any(str(name).endswith(".weight_mask") for name in mask)
    if masked or any(name.endswith(".weight_orig") for name in names):
        return "lottery"
    head = names.get("fc.weight")
    has_conv_head = head is not None and head.ndim == 4 and recognise(names) != ""
    if has_conv_head or any(name.endswith(".sparseThreshold") for name in names):
        return "str"
    return "rigl" if "initial_conv.conv.weight" in names else ""


def without_leading_wrappers(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Leading `module.` and `_orig_mod.` taken off every name that has them."""
    return renamed(tensors, (_WRAPPERS.pattern, ""))


def split_masks(tensors: Mapping[str, torch.Tensor]) -> tuple[Tensors, Tensors]:
    """Weights under their layers' names, as stored, and the bool mask of each weight that has one.

    A layer wrapped twice may have two masks; what either prunes is pruned. Raises CheckpointError for a wrapped weight
    without mask in a file that has masks: without it the layer would compute with weights that were pruned.
    """
    weights: Tensors = {}
    found: list[tuple[str, torch.Tensor]] = []
    wrapped = []
    for name, tensor in tensors.items():
        flat = re.sub(r"(?:\._layer)+(?=\.)", "", name)
        if match := re.fullmatch(r"(.+)\._?(weight|bias)_mask", flat):
            found.append((f"{match[1]}.{match[2]}", tensor))
            continue
        flat = re.sub(r"\.(weight|bias)_orig$", r".\1", flat)
        if flat in weights:
            raise ValueError(f"two tensors would be called {flat!r}.")
        if flat != name and flat.endswith(".weight"):
            wrapped.append(flat)
        weights[flat] = tensor
    masks: Tensors = {}
    for name, mask in found:
        kept = as_mask(name, mask, weights)
        masks[name] = masks[name] & kept if name in masks else kept
    _refuse_without_mask([name for name in wrapped if masks and name not in masks], "mask")
    return weights, masks


def _refuse_without_mask(names: list[str], what: str) -> None:
    if names:
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        raise CheckpointError(
            f"there is no {what} for {', '.join(names[:_LISTED])}{more}, though the other layers have theirs. "
            "The file is not complete."
        )


def as_mask(name: str, mask: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The mask of the weight `name` as a bool tensor of its shape, True where the weight stays.

    Raises CheckpointError for a mask without weight, of another shape, or of values besides 0 and 1.
    """
    if name not in weights:
        raise CheckpointError(f"there is a mask for {name!r} but no such weight. The file is not complete.")
    if weights[name].dtype not in _FLOATS:
        raise CheckpointError(f"{name!r} has a mask but holds {weights[name].dtype}, expected floating point.")
    shape = weights[name].shape
    if mask.shape != shape and not (mask.numel() == weights[name].numel() and 1 in (mask.ndim, len(shape))):
        raise CheckpointError(f"the mask of {name!r} has shape {tuple(mask.shape)}, its weight {tuple(shape)}.")
    kept = mask != 0
    if mask.dtype != torch.bool and not torch.equal(kept.to(mask.dtype), mask):
        raise CheckpointError(f"the mask of {name!r} holds values besides 0 and 1, so it is not a mask.")
    # a mask that prunes nothing takes no memory
    return torch.ones((), dtype=torch.bool).expand(shape) if bool(kept.all()) else kept.reshape(shape)


def apply_masks(weights: Mapping[str, torch.Tensor], masks: Mapping[str, torch.Tensor]) -> tuple[Tensors, list[str]]:
    """Weights times masks, and a note when the file holds values that a mask sets to zero."""
    effective, hidden, layers = dict(weights), 0, []
    for name, kept in masks.items():
        if bool(kept.all()):
            continue
        weight = weights[name]
        product = torch.where(kept, weight, torch.zeros((), dtype=weight.dtype))  # whatever lies under the mask
        if not torch.equal(weight, product):  # else the weights stay where the file has them
            effective[name] = product
            hidden += int(torch.count_nonzero(weight) - torch.count_nonzero(product))
            layers.append(name)
    more = ", …" if len(layers) > _LISTED else ""
    listed = f"{', '.join(layers[:_LISTED])}{more}"
    return effective, [f"{hidden:,} weights that are not zero in the file are masked out ({listed})"] if hidden else []


def apply_thresholds(tensors: Mapping[str, torch.Tensor]) -> tuple[Tensors, Tensors, list[str]]:
    """STR's weights sign(w) · relu(|w| - sigmoid(s)), s = `X.sparseThreshold`; where they are not zero; notes."""
    thresholds = {name: tensor for name, tensor in tensors.items() if name.endswith(".sparseThreshold")}
    copies = [name for name in tensors if name.endswith(".sparseWeight")]  # old files also keep the result
    weights = {name: tensor for name, tensor in tensors.items() if name not in thresholds and name not in copies}
    masks: Tensors = {}
    for threshold_name, threshold in thresholds.items():
        name = f"{threshold_name.removesuffix('.sparseThreshold')}.weight"
        weight = weights.get(name)
        if weight is None or threshold.numel() != 1 or {weight.dtype, threshold.dtype} - _FLOATS:
            raise CheckpointError(
                f"{threshold_name!r} needs one value, and a floating-point weight {name!r} beside it."
            )
        weights[name] = torch.sign(weight) * torch.relu(torch.abs(weight) - torch.sigmoid(threshold).reshape(()))
        masks[name] = weights[name] != 0
    convs = [name for name, tensor in weights.items() if tensor.ndim == 4]  # the head too; the first may be dense
    _refuse_without_mask([name for name in convs[1:] if thresholds and name not in masks], "threshold")
    notes = [f"soft thresholds of {len(thresholds)} layers applied"] if thresholds else []
    return weights, masks, [*notes, *set_aside_note("copies of the sparse weights", copies)]


def make_network(
    weights: Mapping[str, torch.Tensor],
    masks: Mapping[str, torch.Tensor],
    *,
    name: str = "",
    notes: tuple[str, ...] = (),
) -> Network:
    """The network with the names that the families know, its preprocessing and what no tensor says.

    Args:
        weights: as stored, under the project's names.
        masks: name in `weights` -> bool tensor.
    """
    effective, said = apply_masks(weights, masks)
    architecture = recognise(weights)
    kept = dict(masks)
    if rules := {"resnet50_rigl": _RIGL_NAMES, "mobilenet_amc": AMC_NAMES}.get(architecture):
        effective, kept = renamed(effective, *rules), renamed(kept, *rules)
        said.append(
            "names mapped from RigL's ResNet50" if architecture == "resnet50_rigl" else "names mapped from AMC's"
        )
    said += _make_head_linear(effective, kept)
    hints = {"stem_pool": "tf-same"} if architecture == "resnet50_rigl" else {}
    if any(tensor.ndim != 4 for tensor_name, tensor in effective.items() if _is_conv(tensor_name, architecture)):
        hints["shapes"] = "flattened"
    return Network(
        tensors=effective,
        name=name,
        notes=(*notes, *said),
        masks=kept,
        preprocessing=_preprocessing(architecture),
        hints=hints,
    )


def recognise(weights: Mapping[str, torch.Tensor]) -> str:
    """ "resnet50" and its sisters, "resnet50_rigl", "mobilenet" or "mobilenet_amc", by the names; "" for none."""
    if "initial_conv.conv.weight" in weights:
        return "resnet50_rigl"
    if "model.0.0.weight" in weights and "model.13.3.weight" in weights:
        return "mobilenet"
    if "conv1.0.weight" in weights and "features.12.3.weight" in weights:
        return "mobilenet_amc"
    stem, norm = weights.get("conv1.weight"), weights.get("layer1.0.bn1.weight")
    if stem is None or norm is None or stem.numel() != _STEM_VALUES or norm.shape != (64,):
        return ""
    stages = [{name.split(".")[1] for name in weights if name.startswith(f"layer{i}.")} for i in (1, 2, 3, 4)]
    sizes = (len(stages[0]), len(stages[1]), len(stages[2]), len(stages[3]))
    return _RESNETS.get(("layer1.0.conv3.weight" in weights, sizes), "")


def _preprocessing(architecture: str) -> Preprocessing | None:
    """What the transfer study feeds every network; None for networks that it does not use."""
    interpolation = "bicubic" if architecture == "resnet50_rigl" else "bilinear"
    return Preprocessing(Geometry((224, 224), 256, interpolation)) if architecture else None


def _is_conv(name: str, architecture: str) -> bool:
    """Whether the network of this architecture has a convolution's weight under this name."""
    if architecture.startswith("resnet"):
        return bool(re.search(r"(^|\.)(conv\d|downsample\.0)\.weight$", name))
    return architecture.startswith("mobilenet") and bool(re.search(r"^model\.\d+\.[03]\.weight$", name))


def _make_head_linear(weights: Tensors, masks: Tensors) -> list[str]:
    """Gives `fc.weight` and its mask, in place, the two dimensions of a linear layer; says so."""
    weight, bias = weights.get("fc.weight"), weights.get("fc.bias")
    if weight is None or weight.ndim not in (1, 4):
        return []  # linear already, or for the comparison to refuse
    if weight.ndim == 4 and weight.shape[2:] != (1, 1):
        raise CheckpointError(f"the head fc.weight has shape {tuple(weight.shape)}, expected (K, D, 1, 1) or (K, D).")
    if weight.ndim == 1 and bias is None:
        raise CheckpointError(
            f"the head fc.weight is flat, shape {tuple(weight.shape)}, and no bias says how many rows."
        )
    rows = len(weight) if weight.ndim == 4 or bias is None else bias.numel()
    if not rows or weight.numel() % rows:
        raise CheckpointError(f"the head fc.weight has {weight.numel()} values, which are not {rows} rows.")
    for tensors in (weights, masks):
        if "fc.weight" in tensors:
            tensors["fc.weight"] = tensors["fc.weight"].reshape(rows, -1)
    return ["head: a 1x1 convolution, loaded as the equal linear layer"] if weight.ndim == 4 else []
