"""SHA-256 over named tensors, for weights that are not a file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch


def sha256_of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """Hex digest over names, types, shapes and values, in the order of `tensors`."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
