"""Any checkpoint file -> Checkpoint: its tensors by name, read safely, with containers and prefixes taken off."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from richrep.backbones.pickle_scan import unusual_globals
from richrep.errors import CheckpointError

CONTAINERS = ("state_dict", "model", "model_state_dict")  # names under which training scripts keep the weights
PREFIXES = ("module.", "_orig_mod.")  # put before every name by DistributedDataParallel, torch.compile

_ZIP_MAGIC = b"PK\x03\x04"
_MAX_SAFETENSORS_HEADER = 100_000_000  # bytes; the limit of the format
_MAX_NESTING = 4  # containers within containers; a pickle may even contain itself
_LISTED = 8  # names listed in a message before "…"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The tensors of one file by name, as stored: not cast, not checked against any network.

    Attributes:
        tensors: name -> tensor on the CPU; may be mapped from the file, so clone what outlives it.
        metadata: texts stored beside the tensors (safetensors only).
        path: the file.
        sha256: of the file (hex).
        notes: what was taken off or set aside on the way in, one sentence each.
    """

    tensors: dict[str, torch.Tensor]
    path: Path
    sha256: str
    metadata: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Reads safetensors and torch files (zip and legacy), told apart by content.

    Torch files go through `torch.load(weights_only=True)` and nothing more: no code of the file can run.

    Raises:
        CheckpointError: the file is missing, empty, truncated, not a checkpoint, asks for code, or holds no tensors.
    """
    path = Path(path).expanduser().absolute()
    magic = _magic(path)
    if _is_safetensors(magic):
        tensors, metadata = _read_safetensors(path)
        notes: list[str] = []
    else:
        metadata = {}
        tensors, notes = _unwrap(_read_torch(path, magic), path)
    tensors, prefix = _without_prefix(tensors)
    if prefix:
        notes.append(f"prefix {prefix!r} taken off every name")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Checkpoint(tensors, path, sha256, metadata, tuple(notes))


def _magic(path: Path) -> bytes:
    """The first bytes of a file that is there and not empty."""
    if not path.exists():
        raise CheckpointError(f"No such checkpoint file: {path}. Check the path.")
    if path.is_dir():
        raise CheckpointError(f"{path} is a directory, expected a checkpoint file. Give the path of a file in it.")
    try:
        with path.open("rb") as file:
            magic = file.read(16)
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror}. Check its permissions.") from None
    if not magic:
        raise CheckpointError(f"{path} is empty (0 bytes), expected a checkpoint. Copy or download it again.")
    return magic


def _is_safetensors(magic: bytes) -> bool:
    """A safetensors file starts with the length of its JSON header (8 bytes, little endian) and that header."""
    return len(magic) > 8 and magic[8:9] == b"{" and struct.unpack("<Q", magic[:8])[0] <= _MAX_SAFETENSORS_HEADER


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, json.JSONDecodeError, KeyError) as error:
        raise _broken(path, "safetensors file", error) from None
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors: it is a safetensors file without entries. Save it again.")
    return tensors, metadata


def _broken(path: Path, kind: str, error: Exception) -> CheckpointError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return CheckpointError(
        f"{path} is a truncated or corrupt {kind} ({path.stat().st_size:,} bytes): {reason.rstrip('.')}. "
        "Copy or download it again."
    )


def _read_torch(path: Path, magic: bytes) -> object:
    """Whatever object the torch file holds, made of tensors and plain values only."""
    is_zip = magic.startswith(_ZIP_MAGIC)
    if is_zip:
        _check_zip(path)
    elif not magic.startswith(b"\x80"):  # the opcode PROTO, with which every pickle of protocol 2 and later starts
        raise CheckpointError(
            f"{path} is not a checkpoint: it starts with {magic!r}, expected safetensors or a file of torch.save."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about how old files store tensors; nothing the user can act on
            if is_zip and path.suffix != ".safetensors":  # torch would read by that name, whatever the content
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            with path.open("rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, IndexError,
            AttributeError, OSError, struct.error, UnicodeDecodeError, OverflowError) as error:  # fmt: skip
        raise _unreadable(path, error) from None


def _check_zip(path: Path) -> None:
    """The archive is whole, and torch.save wrote it."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except zipfile.BadZipFile as error:
        raise _broken(path, "torch zip file", error) from None
    names = [member.filename for member in members]
    if any(name.endswith("constants.pkl") for name in names):
        raise CheckpointError(f"{path} is a TorchScript program, not a checkpoint. Save the state_dict() of its model.")
    if not any(name.endswith("data.pkl") for name in names):
        raise CheckpointError(
            f"{path} is not a checkpoint: it is a zip archive of {_listed(names)}, expected a file of torch.save."
        )
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise CheckpointError(f"{path} is a compressed archive; torch.save writes none. Save it again with torch.save.")


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    """Why torch refused: objects beyond tensors, else a broken or foreign file."""
    wanted = unusual_globals(path)
    if wanted:
        return CheckpointError(
            f"{path} asks for Python objects beyond tensors: {', '.join(wanted)}. Loading them could run code, so "
            "nothing was loaded. Save only the state_dict() of the model, or use safetensors."
        )
    message = str(error).lower()
    if "magic number" in message or "weights only load failed" in message:
        size = path.stat().st_size
        return CheckpointError(
            f"{path} is not a checkpoint, or a truncated or corrupt one ({size:,} bytes): it starts like a pickle but "
            "torch cannot read it. Expected safetensors or a file of torch.save."
        )
    return _broken(path, "torch file", error)


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
        notes.append(f"read from {inner[0]!r}" + (f"; set aside: {_listed(others)}" if others else ""))
        content = content[inner[0]]
    return _named_tensors(content, path, notes), notes


def _named_tensors(content: object, path: Path, notes: list[str]) -> dict[str, torch.Tensor]:
    """The tensors of a state dict; `notes` gains what is not a tensor."""
    assert isinstance(content, Mapping)
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise CheckpointError(
            f"{path} holds no tensors: it holds {_summary(content)}. Save the state_dict() of the model."
        )
    others = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
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


def _without_prefix(tensors: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], str]:
    """`PREFIXES`, in any order and number, taken off as long as every name starts with the same one."""
    taken = ""
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), ""):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        taken += prefix
    return tensors, taken


def _kind(content: object) -> str:
    if isinstance(content, torch.Tensor):
        return f"one tensor of shape {tuple(content.shape)}"
    return f"a {type(content).__name__}"


def _summary(content: Mapping[object, object]) -> str:
    entries = [f"{name!r} ({type(value).__name__})" for name, value in content.items()]
    return _listed(entries) if entries else "an empty dictionary"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f", … ({len(names)} in all)" if len(names) > _LISTED else "")
