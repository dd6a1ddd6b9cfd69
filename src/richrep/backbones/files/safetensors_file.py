"""A safetensors file -> tensors by name, mapped from the file, and the texts beside them."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open

from richrep.backbones.files.refusals import broken_file
from richrep.errors import CheckpointError

_MAX_HEADER = 100_000_000  # bytes; the limit of the format


def is_safetensors(magic: bytes) -> bool:
    """A safetensors file starts with the length of its JSON header (8 bytes, little endian) and that header."""
    return len(magic) > 8 and magic[8:9] == b"{" and struct.unpack("<Q", magic[:8])[0] <= _MAX_HEADER


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors and the metadata of the file at `path`."""
    try:
        with path.open("rb") as file:
            header = file.read(struct.unpack("<Q", file.read(8))[0])
        json.loads(header, object_pairs_hook=_check_unique)
        with safe_open(path, framework="pt", device="cpu") as opened:
            metadata = dict(opened.metadata() or {})
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
    except Exception as error:  # whatever a broken file provokes in the libraries
        raise broken_file(path, "safetensors file", error) from None
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors: it is a safetensors file without entries. Save it again.")
    return tensors, metadata


def _check_unique(pairs: Sequence[tuple[str, object]]) -> None:
    """Of two entries with one name, one would be lost without a word."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two entries are called {twice!r}")
