"""The container of a training script: the weights under one key, and beside them what no network needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from richrep.backbones.formats.format import state_dict_in, without_wrappers


def read_container(content: Mapping[str, Any], key: str) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """The tensors under `key` without wrappers, and a note on the entries beside them.

    When `key` holds none, the tensors of `content` itself, which may be none as well, and no note.
    """
    tensors = state_dict_in(content, key)
    if tensors is None:
        return without_wrappers(state_dict_in(content) or {}), ()
    others = [str(name) for name in content if name != key]
    note = f"read from {key!r}" + (f"; set aside: {', '.join(others)}" if others else "")
    return without_wrappers(tensors), (note,)
