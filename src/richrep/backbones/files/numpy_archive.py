"""A numpy archive (.npz) -> tensors by name; arrays of Python objects and archives that grow in memory are refused."""

from __future__ import annotations

import math
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch

from richrep.backbones.files.refusals import broken_file
from richrep.errors import CheckpointError

_MAX_MEMBERS = 10_000  # the largest published networks have under 3,000 tensors
_MAX_RATIO = 20  # bytes unpacked per byte of the file; trained weights hardly compress, pruned ones tenfold
_SLACK = 100_000  # bytes, for small arrays of zeros


def read_numpy_archive(path: Path) -> dict[str, torch.Tensor]:
    """Name -> tensor for every array of the archive at `path`; slashes in names are kept."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(path, members)
            return {member.filename.removesuffix(".npy"): _read(path, archive, member) for member in members}
    except CheckpointError:
        raise
    except Exception as error:  # whatever a broken file provokes in the libraries
        raise broken_file(path, "numpy archive", error) from None


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    names = [member.filename for member in members]
    if len(members) > _MAX_MEMBERS:
        raise CheckpointError(f"{path} holds {len(members):,} arrays, expected at most {_MAX_MEMBERS:,}: no network.")
    if len(set(names)) < len(names):
        raise CheckpointError(f"{path} holds two arrays of the same name, expected one of each. Save it again.")
    unpacked, size = sum(member.file_size for member in members), path.stat().st_size
    if unpacked > _MAX_RATIO * size + _SLACK:
        raise CheckpointError(
            f"{path} has {size:,} bytes and would unpack to {unpacked:,}, expected at most {_MAX_RATIO} times as many. "
            "If you trust it, save its arrays again with numpy.savez, uncompressed."
        )


def _read(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> torch.Tensor:
    """One array, whose header must agree with the size of its member before memory is asked for."""
    where = f"{path}: array {member.filename.removesuffix('.npy')!r}"
    with warnings.catch_warnings(), archive.open(member) as file:
        warnings.simplefilter("ignore")  # about headers written by Python 2
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        if dtype.hasobject:
            raise CheckpointError(f"{where} holds Python objects, which are never loaded. Save numbers only.")
        if dtype.kind not in "biufc" or dtype.itemsize > 8 + 8 * (dtype.kind == "c"):
            raise CheckpointError(f"{where} is of type {dtype}, expected numbers that torch knows.")
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
            raise CheckpointError(
                f"{where} has the shape {shape} and {member.file_size - file.tell():,} bytes, expected "
                f"{math.prod(shape) * dtype.itemsize:,}. Copy or download it again."
            )
    with archive.open(member) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    return torch.from_numpy(np.ascontiguousarray(array, dtype.newbyteorder("=")).reshape(shape))
