"""Files of no known project: state dicts, alone or in the containers of training scripts, and averages beside them.

Where no container has a usual name, whatever holds a layer that takes images is one: `net`, `weights`, `backbone`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from richrep.backbones.foreign import is_beside
from richrep.backbones.formats.format import Network, without_wrappers
from richrep.backbones.formats.masks_beside import check_no_masks
from richrep.errors import CheckpointError

CONTAINERS = ("state_dict", "model", "model_state_dict")  # names under which training scripts keep the weights
# … and their average over the training: timm, DeiT and torchvision's references, others
AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema_model", "ema")

_AVERAGE_COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel: how often it was averaged, no weight
_COLOURS = 3  # the first layer of every network takes images, (D, 3, P, P)
_MAX_NESTING = 4  # containers within containers; a pickle may even contain itself
_LISTED = 8  # names listed in a message before "…"


def read_plain(content: object) -> list[Network]:
    """The networks in `content`, those meant by a bare PATH first.

    An average is called "ema", others by the key they lie under, "" when they lie under none.

    Raises CheckpointError when there are no tensors by name, or masks in an unknown form.
    """
    return _read(content, _MAX_NESTING)


def main_networks(networks: list[Network]) -> list[Network]:
    """Those that a bare PATH may mean: no averages, unless there is nothing else."""
    return [network for network in networks if not _is_average(network)] or networks


def _is_average(network: Network) -> bool:
    return any(part in ("ema", *AVERAGES) for part in network.name.split("/"))


def _read(content: object, depth: int) -> list[Network]:
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"holds no tensors by name: it holds {_kind(content)}, expected a dictionary of tensors. "
            "Save the state_dict() of the model."
        )
    labels = _labels(content) if depth else {}
    if not labels:
        return [_state_dict(content)]
    others = {name: value for name, value in content.items() if name not in labels}
    beside = [str(name) for name in others]
    networks = []
    if labels.keys() <= set(AVERAGES) and any(isinstance(v, torch.Tensor) for v in content.values()):
        networks.append(_state_dict(others))
        beside = []
    else:
        check_no_masks(others)
    for key, label in labels.items():
        note = f"read from {key!r}" + (f"; set aside: {_listed(beside)}" if beside else "")
        for inner in _read(content[key], depth - 1):
            outer = "" if len(labels) == 1 and inner.name else label
            name = "/".join(filter(None, (outer, inner.name)))
            networks.append(replace(inner, name=name, notes=(note, *inner.notes)))
    return networks


def _labels(content: Mapping[object, object]) -> dict[str, str]:
    """Key of `content` that holds a network -> what to call it."""
    found = [key for key in AVERAGES if _holds_tensors(content.get(key))]
    averages = {key: "ema" if len(found) == 1 else key for key in found}
    labels = {key: key for key in CONTAINERS if _holds_tensors(content.get(key))}
    if not labels and not _takes_images(content):
        others = [key for key in content if isinstance(key, str) and key not in averages]
        labels = {key: key for key in others if _may_be_network(key, content[key])}
    return labels | averages


def _state_dict(content: Mapping[object, object]) -> Network:
    """The tensors of a state dict without wrappers; what is no tensor is said."""
    named = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not named:
        raise CheckpointError(f"holds no tensors: it holds {_summary(content)}. Save the state_dict() of the model.")
    others = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    check_no_masks({name: value for name, value in content.items() if not isinstance(value, torch.Tensor)})
    notes = [f"set aside, not tensors: {_listed(others)}"] if others else []
    tensors = {name: tensor for name, tensor in named.items() if name != _AVERAGE_COUNTER} or named
    stripped = without_wrappers(tensors)
    if prefix := next(iter(tensors)).removesuffix(next(iter(stripped))):
        notes.append(f"prefix {prefix!r} taken off every name")
    return Network(stripped, notes=tuple(notes))


def _holds_tensors(content: object, depth: int = _MAX_NESTING) -> bool:
    """Whether `content` is a state dict, or a container of one."""
    if not isinstance(content, Mapping) or depth == 0:
        return False
    return any(isinstance(value, torch.Tensor) for value in content.values()) or any(
        _holds_tensors(content.get(name), depth - 1) for name in CONTAINERS
    )


def _may_be_network(key: str, value: object) -> bool:
    """Whether a container under any other name, `net` or `encoder`, holds layers of which one takes images."""
    return isinstance(value, Mapping) and not (is_beside(key) or "mask" in key.lower()) and _takes_images(value)


def _takes_images(content: Mapping[object, object]) -> bool:
    """Whether a state dict has a layer of colours; its masks have the same shape."""
    weights = {name: value for name, value in content.items() if "mask" not in str(name).lower()}
    tensors = [value for value in weights.values() if isinstance(value, torch.Tensor)]
    return any(tensor.ndim == 4 and tensor.shape[1] == _COLOURS for tensor in tensors)


def _kind(content: object) -> str:
    if isinstance(content, torch.Tensor):
        return f"one tensor of shape {tuple(content.shape)}"
    return f"a {type(content).__name__}"


def _summary(content: Mapping[object, object]) -> str:
    entries = [f"{name!r} ({type(value).__name__})" for name, value in content.items()]
    return _listed(entries) if entries else "an empty dictionary"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f", … ({len(names)} in all)" if len(names) > _LISTED else "")
