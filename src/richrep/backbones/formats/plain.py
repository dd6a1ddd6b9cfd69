"""Files of no known project: state dicts, alone or in the containers of training scripts, and averages beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from richrep.backbones.formats.format import Network, without_wrappers
from richrep.errors import CheckpointError

CONTAINERS = ("state_dict", "model", "model_state_dict")  # names under which training scripts keep the weights
# … and their average over the training: timm, DeiT and torchvision's references, others
AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema_model", "ema")

_AVERAGE_COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel: how often it was averaged, no weight
_MASKS = ("mask", "masks")  # entries that decide about weights
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
    beside = [str(name) for name in content if name not in labels]
    _check_no_masks(content, beside)
    networks = []
    if not any(name in CONTAINERS for name in labels) and any(isinstance(v, torch.Tensor) for v in content.values()):
        networks.append(_state_dict({name: value for name, value in content.items() if name not in labels}))
        beside = []
    for key, label in labels.items():
        note = f"read from {key!r}" + (f"; set aside: {_listed(beside)}" if beside else "")
        for inner in _read(content[key], depth - 1):
            outer = "" if len(labels) == 1 and inner.name else label
            name = "/".join(filter(None, (outer, inner.name)))
            networks.append(replace(inner, name=name, notes=(note, *inner.notes)))
    return networks


def _labels(content: Mapping[object, object]) -> dict[str, str]:
    """Key of `content` that holds a network -> what to call it."""
    averages = [key for key in AVERAGES if _holds_tensors(content.get(key))]
    labels = {key: key for key in CONTAINERS if _holds_tensors(content.get(key))}
    return labels | {key: "ema" if len(averages) == 1 else key for key in averages}


def _state_dict(content: Mapping[object, object]) -> Network:
    """The tensors of a state dict without wrappers; what is no tensor is said."""
    named = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not named:
        raise CheckpointError(f"holds no tensors: it holds {_summary(content)}. Save the state_dict() of the model.")
    others = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    _check_no_masks(content, others)
    notes = [f"set aside, not tensors: {_listed(others)}"] if others else []
    tensors = {name: tensor for name, tensor in named.items() if name != _AVERAGE_COUNTER} or named
    stripped = without_wrappers(tensors)
    if prefix := next(iter(tensors)).removesuffix(next(iter(stripped))):
        notes.append(f"prefix {prefix!r} taken off every name")
    return Network(stripped, notes=tuple(notes))


def _check_no_masks(content: Mapping[object, object], names: list[str]) -> None:
    if masks := [name for name in names if name in _MASKS and content.get(name) is not None]:
        raise CheckpointError(
            f"holds masks ({', '.join(masks)}) in a form that no known format has; without them its weights "
            "would be wrong. Multiply the weights by their masks and save the result."
        )


def _holds_tensors(content: object, depth: int = _MAX_NESTING) -> bool:
    """Whether `content` is a state dict, or a container of one."""
    if not isinstance(content, Mapping) or depth == 0:
        return False
    return any(isinstance(value, torch.Tensor) for value in content.values()) or any(
        _holds_tensors(content.get(name), depth - 1) for name in CONTAINERS
    )


def _kind(content: object) -> str:
    if isinstance(content, torch.Tensor):
        return f"one tensor of shape {tuple(content.shape)}"
    return f"a {type(content).__name__}"


def _summary(content: Mapping[object, object]) -> str:
    entries = [f"{name!r} ({type(value).__name__})" for name, value in content.items()]
    return _listed(entries) if entries else "an empty dictionary"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f", … ({len(names)} in all)" if len(names) > _LISTED else "")
