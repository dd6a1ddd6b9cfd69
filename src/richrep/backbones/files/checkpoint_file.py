"""One checkpoint file, of whatever kind, told by its contents -> what it holds."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

from richrep.backbones.files.numpy_archive import read_numpy_archive
from richrep.backbones.files.refusals import broken_file
from richrep.backbones.files.safetensors_file import is_safetensors, read_safetensors
from richrep.backbones.files.torch_file import ZIP_MAGIC, read_torch_file
from richrep.errors import CheckpointError


def read_file(path: Path) -> tuple[object, dict[str, str]]:
    """What the file at `path` holds, and the texts beside the tensors (safetensors only).

    Raises CheckpointError when there is no regular file, or it is empty, broken, foreign or asks for code.
    """
    magic = _first_bytes(path)
    if is_safetensors(magic):
        return read_safetensors(path)
    if magic.startswith(ZIP_MAGIC) and _is_numpy_archive(path):
        return read_numpy_archive(path), {}
    return read_torch_file(path, magic), {}


def _first_bytes(path: Path) -> bytes:
    """The first bytes of a regular file that is not empty; a pipe or a device would block or never end."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise CheckpointError(
                f"{path} is {_kind(mode)}, expected a checkpoint file. Copy its contents into a file."
            )
        with path.open("rb") as file:
            magic = file.read(16)
    except FileNotFoundError:
        raise CheckpointError(f"No such checkpoint file: {path}. Check the path.") from None
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror}. Check the path and its permissions.") from None
    except CheckpointError:
        raise
    except ValueError as error:  # a NUL byte
        raise CheckpointError(f"Cannot read {str(path)!r}: {error}. Check the path.") from None
    if not magic:
        raise CheckpointError(f"{path} is empty (0 bytes), expected a checkpoint. Copy or download it again.")
    return magic


def _kind(mode: int) -> str:
    return "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


def _is_numpy_archive(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:  # whatever a broken file provokes in zipfile
        raise broken_file(path, "torch zip file or numpy archive", error) from None
    return bool(names) and all(name.endswith(".npy") for name in names)
