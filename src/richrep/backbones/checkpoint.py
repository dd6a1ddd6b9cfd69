"""Any checkpoint file -> Checkpoint: the tensors of one network by name, with containers and prefixes taken off."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from richrep.backbones.files.reading import Content, read_content
from richrep.backbones.formats import FORMATS
from richrep.backbones.formats.format import Format, Network, without_wrappers
from richrep.data.preprocessing import Preprocessing
from richrep.errors import CheckpointError, unknown_name_message

CONTAINERS = ("state_dict", "model", "model_state_dict")  # names under which training scripts keep the weights

_MASKS = ("mask", "masks")  # entries that decide about weights
_MAX_NESTING = 4  # containers within containers; a pickle may even contain itself
_LISTED = 8  # names listed in a message before "…"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The tensors of one network of a file by name, as stored: not cast, not checked against any network.

    Attributes:
        tensors: name -> tensor on the CPU; may be mapped from the file, so clone what outlives it.
        metadata: texts stored beside the tensors (safetensors, config.json).
        path: the file or folder.
        sha256: of the file, or of the names and hashes of the files read in a folder (hex).
        notes: what was taken off or set aside on the way in, one sentence each.
        format: the training project whose format it is; empty for plain files.
        network: which network of the file, as in `PATH#NAME`; empty for the only one.
        masks: name in `tensors` -> bool tensor, False where the weight was pruned; empty when the file has none.
        preprocessing: what the project feeds the network; None leaves it to the family.
        hints: what changes the features and no tensor says, e.g. {"stem_pool": "tf-same"}.
        architecture: as before '@' in an address, where the file knows it; empty means that it must be detected.
    """

    tensors: dict[str, torch.Tensor]
    path: Path
    sha256: str
    metadata: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    format: str = ""
    network: str = ""
    masks: Mapping[str, torch.Tensor] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    hints: Mapping[str, str] = field(default_factory=dict)
    architecture: str = ""


def load_checkpoint(path: Path | str, *, network: str = "", formats: Mapping[str, Format] = FORMATS) -> Checkpoint:
    """Reads safetensors, torch files, numpy archives and Hugging Face folders safely, and finds the network in them.

    Args:
        path: the file or folder.
        network: which of the file's networks; empty means the one the format puts first.
        formats: the formats to recognise; what none claims is read as a plain state dict.

    Raises:
        CheckpointError: the file is missing, empty, truncated, not a checkpoint, asks for code, holds no tensors, has
            no such network, or is claimed by several formats.
    """
    path = Path(os.path.expanduser(path)).absolute()  # unlike Path.expanduser, no error for an unknown user
    content = read_content(path)
    name, found = _find_network(content, path, network, formats)
    return Checkpoint(
        tensors=dict(found.tensors),
        path=path,
        sha256=content.sha256(),
        metadata=content.metadata,
        notes=found.notes,
        format=found.family or name,
        network=found.name,
        masks=found.masks,
        preprocessing=found.preprocessing,
        hints=found.hints,
        architecture=found.architecture,
    )


def _find_network(content: Content, path: Path, wanted: str, formats: Mapping[str, Format]) -> tuple[str, Network]:
    """The name of the format ("" for a plain file) and the network."""
    claims = {}
    if "richrep" in content.metadata:  # our own files say so themselves
        formats = {name: entry for name, entry in formats.items() if name == "richrep"}
    if isinstance(content.value, Mapping):
        for name, entry in formats.items():
            try:
                networks = entry.read(content.value, content.metadata)
            except (CheckpointError, ValueError, TypeError, LookupError, RuntimeError) as error:  # tensors of any shape
                raise CheckpointError(f"{path}, a file in the format of {name}: {error}") from None
            if networks:
                claims[name] = networks
    if len(claims) > 1:
        raise CheckpointError(
            f"{path} could be of {len(claims)} formats: {', '.join(claims)}. Save the state_dict() of the network you "
            "mean as a file of its own."
        )
    if not claims:
        plain = _read_plain(content, path)
        claims = {"": [plain]}
    ((name, networks),) = claims.items()
    by_name = {network.name: network for network in networks}
    if not wanted:
        others = [f"#{other}" for other in by_name if other != networks[0].name]
        note = (f"the file also holds {', '.join(others)}",) if others else ()
        return name, replace(networks[0], notes=(*networks[0].notes, *note))
    if wanted not in by_name:
        if len(networks) == 1 and not networks[0].name:
            raise CheckpointError(f"{path} holds one network, so {wanted!r} after '#' names nothing. Leave it out.")
        raise CheckpointError(unknown_name_message(f"network in {path}", wanted, by_name))
    return name, by_name[wanted]


def _read_plain(content: Content, path: Path) -> Network:
    """The only state dict, perhaps within containers."""
    tensors, notes = _unwrap(content.value, path)
    stripped = without_wrappers(tensors)
    if prefix := next(iter(tensors)).removesuffix(next(iter(stripped))):
        notes.append(f"prefix {prefix!r} taken off every name")
    return Network(stripped, notes=tuple(notes))


def _unwrap(content: object, path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The tensors inside (nested) containers, and what was set aside on the way."""
    notes: list[str] = []
    for _ in range(_MAX_NESTING + 1):
        if not isinstance(content, Mapping):
            raise CheckpointError(
                f"{path} holds no tensors by name: it holds {_kind(content)}, expected a dictionary of tensors. "
                "Save the state_dict() of the model."
            )
        inner = [name for name in CONTAINERS if _holds_tensors(content.get(name))]
        if len(inner) > 1:
            raise CheckpointError(
                f"{path} holds several networks, under {' and '.join(map(repr, inner))}. "
                "Save the one you mean as a file of its own."
            )
        if not inner:
            break
        others = [str(name) for name in content if name != inner[0]]
        if masks := [name for name in others if name in _MASKS and content[name] is not None]:
            raise CheckpointError(_unread_masks(path, masks))
        notes.append(f"read from {inner[0]!r}" + (f"; set aside: {_listed(others)}" if others else ""))
        content = content[inner[0]]
    return _named_tensors(content, path, notes), notes


def _unread_masks(path: Path, names: list[str]) -> str:
    return (
        f"{path} holds masks ({', '.join(names)}) in a form that no known format has; without them its weights "
        "would be wrong. Multiply the weights by their masks and save the result."
    )


def _named_tensors(content: object, path: Path, notes: list[str]) -> dict[str, torch.Tensor]:
    """The tensors of a state dict; `notes` gains what is not a tensor."""
    assert isinstance(content, Mapping)
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise CheckpointError(
            f"{path} holds no tensors: it holds {_summary(content)}. Save the state_dict() of the model."
        )
    others = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if masks := [name for name in others if name in _MASKS and content[name] is not None]:
        raise CheckpointError(_unread_masks(path, masks))
    if others:
        notes.append(f"set aside, not tensors: {_listed(others)}")
    return tensors


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
