"""The contract of a checkpoint format: how one training project wraps, names and accompanies its networks.

A format knows the container and the names, a family (in families/) knows the network. A new format is one file in this
folder:

1. Write a class with the members of `Format` (swav.py is the shortest example). `read` looks at the contents, never at
   the path. It returns the networks under the names that torchvision (ResNets, RegNets) or timm (ViTs) gives their
   tensors, so that the families recognise them; what belongs to no network (projection heads, prototypes, optimisers)
   is left out and said in `Network.notes`.
2. Add one line to `FORMATS` in __init__.py.

A file that several formats claim is refused with their names, so claim only what is unmistakably yours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from richrep.data.preprocessing import Preprocessing
from richrep.errors import CheckpointError

PREFIXES = ("module.", "_orig_mod.")  # put before every name by DistributedDataParallel, torch.compile
_LISTED = 6


@dataclass(frozen=True, eq=False)
class Network:
    """One network of a file.

    Attributes:
        tensors: name -> tensor as the forward pass uses it (masks applied), under torchvision's or timm's names.
        name: how to ask for it, as in `PATH#NAME`; empty when the file holds only one.
        notes: what was renamed, taken off or set aside, one sentence each, for the load report.
        masks: name in `tensors` -> bool tensor of its shape, False where the weight was pruned.
        preprocessing: what the project feeds this network; None leaves it to the family.
        preprocessing_stated: whether this very file says so.
        hints: what changes the features and no tensor says, e.g. {"stem_pool": "tf-same"}; families read them.
        family: what the backbone calls its family; empty means the format's name.
        architecture: the architecture, as before '@' in an address, where the file knows it; empty means detect it.
    """

    tensors: Mapping[str, torch.Tensor]
    name: str = ""
    notes: tuple[str, ...] = ()
    masks: Mapping[str, torch.Tensor] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    preprocessing_stated: bool = False
    hints: Mapping[str, str] = field(default_factory=dict)
    family: str = ""
    architecture: str = ""


class Format(Protocol):
    """How one training project stores networks.

    Attributes:
        name: short, in lower case, e.g. "swav"; it becomes the backbone's `family`.
        description: a few words for `richrep list` and the documentation.
    """

    name: str
    description: str

    def read(self, content: Mapping[str, Any], metadata: Mapping[str, str]) -> Sequence[Network]:
        """The networks in a file, the one meant by a bare PATH first; empty when the file is of another format.

        Args:
            content: what the file holds: tensors by name, or containers of those. Objects that are neither tensors
                nor plain values have been replaced by `Placeholder`s.
            metadata: texts beside the tensors: those of a safetensors file, or a folder's config.json.

        Raises:
            CheckpointError: the file is of this format and cannot be used (only a head, a broken mask); the message
                need not name the file.
        """
        ...


def state_dict_in(content: object, *path: str) -> dict[str, torch.Tensor] | None:
    """The tensors under the nested keys `path`; None when there is no mapping with tensors there."""
    for key in path:
        if not isinstance(content, Mapping) or key not in content:
            return None
        content = content[key]
    if not isinstance(content, Mapping):
        return None
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    return tensors or None


def any_state_dict(content: object, *keys: str) -> dict[str, torch.Tensor] | None:
    """The tensors under the first of `keys` that has some, else those of `content` itself."""
    for key in keys:
        if (tensors := state_dict_in(content, key)) is not None:
            return tensors
    return state_dict_in(content)


def without_wrappers(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`PREFIXES`, in any order and number, taken off as long as every name starts with the same one."""
    stripped = dict(tensors)
    while stripped and (prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in stripped)), "")):
        stripped = {name.removeprefix(prefix): tensor for name, tensor in stripped.items()}
    return stripped


def under(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names start with `prefix`, which is taken off."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def renamed(tensors: Mapping[str, torch.Tensor], *rules: tuple[str, str]) -> dict[str, torch.Tensor]:
    """Every name with each (regular expression, replacement) applied in order.

    Raises CheckpointError when two names become one.
    """
    result: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        if new in result:
            raise CheckpointError(
                f"two tensors would be called {new!r}: the file mixes two networks. Save one of them."
            )
        result[new] = tensor
    return result


def split_off(
    tensors: Mapping[str, torch.Tensor], *patterns: str
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(the others, those whose name matches one of the regular expressions from its start)."""
    taken = {name: t for name, t in tensors.items() if any(re.match(pattern, name) for pattern in patterns)}
    return {name: tensor for name, tensor in tensors.items() if name not in taken}, taken


def set_aside_note(what: str, names: Iterable[str]) -> tuple[str, ...]:
    """("projection head set aside: 4 tensors (…)",); nothing for no names."""
    listed = list(names)
    if not listed:
        return ()
    more = ", …" if len(listed) > _LISTED else ""
    plural = "s" if len(listed) > 1 else ""
    return (f"{what} set aside: {len(listed)} tensor{plural} ({', '.join(listed[:_LISTED])}{more})",)
