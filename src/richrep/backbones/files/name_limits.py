"""How many tensors one network may have, and how long their names may be: much more than any published one needs.

What follows compares names with those of a thousand architectures, prefix by prefix, which takes its time.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from richrep.errors import CheckpointError

_MAX_TENSORS = 20_000  # of one state dict; ten ResNet-152 side by side, pruned, have 15,000
_MAX_LENGTH = 500  # characters of a name
_MAX_PARTS = 50  # of a name, between dots
_MAX_NESTING = 6  # containers within containers


def check_names(content: object, *, where: str) -> None:
    """Raises CheckpointError when a state dict in `content` is larger, or a name in it longer, than any network's."""
    _check(content, where, _MAX_NESTING)


def _check(content: object, where: str, depth: int) -> None:
    if not isinstance(content, Mapping) or not depth:
        return
    names = [str(name) for name, value in content.items() if isinstance(value, torch.Tensor)]
    if len(names) > _MAX_TENSORS:
        raise CheckpointError(
            f"{where} holds {len(names):,} tensors by name, expected at most {_MAX_TENSORS:,}: no network has so many. "
            "Save only the state_dict() of the model."
        )
    for name in names:
        if len(name) > _MAX_LENGTH or name.count(".") >= _MAX_PARTS:
            raise CheckpointError(
                f"{where} holds a tensor whose name has {len(name):,} characters in {name.count('.') + 1:,} parts, "
                f"{name[:60]!r}…, expected at most {_MAX_LENGTH} in {_MAX_PARTS}. Rename it."
            )
    for value in content.values():
        _check(value, where, depth - 1)
