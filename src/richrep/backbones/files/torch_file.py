"""A file of torch.save, zip or legacy -> what it holds: tensors on the CPU, plain values, placeholders.

Every pickle is walked through first (pickle_check.py), every archive is laid out first, so that `torch.load` meets only
files that ask for nothing but what they hold. It then runs with weights_only=True and the allow-list of
pickle_names.py.
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zipfile
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import torch

from richrep.backbones.files.pickle_check import PickleWalk
from richrep.backbones.files.pickle_names import allow_list
from richrep.backbones.files.pickle_scan import names_in, refused_names
from richrep.backbones.files.pickle_values import BrokenPickle, LargePickle, RefusedPickle
from richrep.backbones.files.placeholder import Placeholder
from richrep.backbones.files.refusals import broken_file, listed
from richrep.errors import CheckpointError

ZIP_MAGIC = b"PK\x03\x04"

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a legacy file
_END_BYTES, _END64_BYTES, _LOCATOR_BYTES, _LOCAL_BYTES = 22, 56, 20, 30  # fixed parts of a zip archive's records
_ENCRYPTED = 0x1
_loading = threading.Lock()  # torch's allow-list and Python's warning filters belong to the whole process


def read_torch_file(path: Path, magic: bytes) -> object:
    """Whatever the file at `path`, which starts with `magic`, holds.

    Raises CheckpointError when it is broken, foreign, or asks for code or for more memory than it holds.
    """
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        if magic.startswith(ZIP_MAGIC):
            inert = _check_zip(path, data)
        elif magic.startswith(b"\x80"):  # the opcode PROTO, with which every pickle of protocol 2 and later starts
            inert = _check_legacy(path, data)
        elif names := refused_names(data):  # protocol 0 or 1
            raise _asks_for_code(path, names)
        else:
            harmless = names_in(data)
            what = f"a plain pickle that names {listed(harmless)}" if harmless else f"it starts with {magic!r}"
            raise CheckpointError(
                f"{path} is not a checkpoint: {what}, expected safetensors, a numpy archive or a file of torch.save."
            )
    return _load(path, magic, inert)


def _load(path: Path, magic: bytes, inert: dict[str, type[Placeholder]]) -> object:
    # Texts from Python 2 may be any bytes, hence latin1.
    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True, "encoding": "latin1"}
    try:
        with _loading, warnings.catch_warnings(), torch.serialization.safe_globals(allow_list(inert)):
            warnings.simplefilter("ignore")  # about how old files store tensors; nothing the user can act on
            if magic.startswith(ZIP_MAGIC) and path.suffix != ".safetensors":  # torch would read by that name
                return torch.load(path, mmap=True, **options)
            with _WithoutDescriptor(path) as file:
                return torch.load(file, **options)
    except Exception as error:  # whatever a broken file provokes in torch
        reason = str(error).rpartition("WeightsUnpickler error: ")[2]  # after a page of advice
        raise broken_file(path, "torch file", reason or type(error).__name__) from None


class _WithoutDescriptor(io.BufferedReader):
    """A file that torch reads through Python alone: it takes files with a descriptor for tar archives first."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))

    def fileno(self) -> int:
        """There is none."""
        raise io.UnsupportedOperation("fileno")


def _check_legacy(path: Path, data: mmap) -> dict[str, type[Placeholder]]:
    """The placeholders that the file needs: five pickles, then of every storage its length and its bytes."""
    walk = PickleWalk(data, file_size=len(data))
    try:
        _check_magic(walk)
        for _ in ("protocol", "system", "content"):
            walk.run()
        keys = walk.run()
        order = getattr(keys, "items", [])
        if sorted(map(str, order)) != sorted(walk.storages):
            raise RefusedPickle(f"lists {len(order)} storages and needs {len(walk.storages)} others")
    except RefusedPickle as error:
        raise _refused(path, data, error) from None
    except BrokenPickle:
        raise _refused(path, data, None) from None
    position = walk.position
    for key in order:
        storage = walk.storages[key]
        count = data[position : position + 8]
        position += 8 + storage.size
        if position > len(data):
            raise broken_file(path, "torch file", f"it ends within storage {key!r}")
        if struct.unpack("<q", count)[0] * storage.item_bytes != storage.size:
            raise broken_file(path, "torch file", f"the size of storage {key!r} is stated in two ways")
    return walk.inert


def _check_magic(walk: PickleWalk) -> None:
    """Raises BrokenPickle when a plain pickle follows, which no version of torch.save writes."""
    try:
        if walk.run() == _LEGACY_MAGIC:
            return
    except RefusedPickle:
        pass
    raise BrokenPickle("it is a plain pickle")


def _check_zip(path: Path, data: mmap) -> dict[str, type[Placeholder]]:
    """The placeholders that the file needs."""
    root, members = _lay_out(path, data)
    start, size = members[f"{root}/data.pkl"]
    content = data[start : start + size]
    prefix = f"{root}/data/"
    stored = {name.removeprefix(prefix): size for name, (_, size) in members.items() if name.startswith(prefix)}
    walk = PickleWalk(content, file_size=len(data), stored=stored)
    try:
        walk.run()
    except RefusedPickle as error:
        raise _refused(path, content, error) from None
    except BrokenPickle as error:
        if names := refused_names(content):
            raise _asks_for_code(path, names) from None
        raise broken_file(path, "torch file", error) from None
    return walk.inert


def _lay_out(path: Path, data: mmap) -> tuple[str, dict[str, tuple[int, int]]]:
    """The folder in the archive, and for every member in it where its bytes start and how many they are.

    The archive must be one that no other reader can read differently: one directory, at its very end, and members that
    are stored as they are, under different names, in different places.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        directory = _directory_start(data)
    except Exception as error:  # whatever a broken file provokes in zipfile
        raise broken_file(path, "torch zip file", error) from None
    names = [member.filename for member in members]
    if any(name.endswith("constants.pkl") for name in names):
        raise CheckpointError(f"{path} is a TorchScript program, not a checkpoint. Save the state_dict() of its model.")
    root = names[0].partition("/")[0] if names else ""
    if f"{root}/data.pkl" not in names:
        raise CheckpointError(
            f"{path} is not a checkpoint: it is a zip archive of {listed(names)}, expected a file of torch.save."
        )
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise CheckpointError(f"{path} is a compressed archive; torch.save writes none. Save it again with torch.save.")
    if wrong := _wrong_member(members, root):
        raise CheckpointError(f"{path} is an archive with {wrong}; torch.save writes none. Nothing was loaded.")
    places: dict[str, tuple[int, int]] = {}
    end = directory
    for member in sorted(members, key=lambda member: member.header_offset, reverse=True):
        header = data[member.header_offset : member.header_offset + _LOCAL_BYTES]
        if len(header) < _LOCAL_BYTES or not header.startswith(ZIP_MAGIC):
            raise broken_file(path, "torch zip file", f"member {member.filename!r} is not where it should be")
        start = member.header_offset + _LOCAL_BYTES + sum(struct.unpack("<HH", header[26:]))
        if start + member.file_size > end:
            raise broken_file(path, "torch zip file", f"member {member.filename!r} overlaps what follows it")
        places[member.filename] = (start, member.file_size)
        end = member.header_offset
    return root, places


def _directory_start(data: mmap) -> int:
    """Where the directory of the archive starts; raises ValueError unless it ends right before the archive's end."""
    end = len(data) - _END_BYTES
    if data[end : end + 4] != b"PK\x05\x06":
        raise ValueError("something follows the archive's directory")
    size, offset = struct.unpack_from("<LL", data, end + 12)
    locator = end - _LOCATOR_BYTES
    if data[locator : locator + 4] == b"PK\x06\x07":
        end = locator - _END64_BYTES
        if struct.unpack_from("<Q", data, locator + 8)[0] != end:
            raise ValueError("the archive's directory is not where it should be")
        size, offset = struct.unpack_from("<QQ", data, end + 40)
    if offset + size != end:
        raise ValueError("the archive's directory is not where it should be")
    return int(offset)


def _wrong_member(members: list[zipfile.ZipInfo], root: str) -> str:
    """What makes two readers disagree about the archive, or empty."""
    lowered = [member.filename.lower() for member in members]  # torch's reader ignores case
    if len(set(lowered)) < len(lowered):
        return "two members of one name"
    for member in members:
        parts = member.orig_filename.split("/")
        if parts[0] != root or ".." in parts or "\\" in member.orig_filename or "\0" in member.orig_filename:
            return f"a member called {member.orig_filename!r}"
        if member.flag_bits & _ENCRYPTED:
            return "encrypted members"
        if member.compress_size != member.file_size:
            return f"two sizes of {member.filename!r}"
    return ""


def _refused(path: Path, data: bytes | mmap, error: RefusedPickle | None) -> CheckpointError:
    """Why a pickle is not read: what it asks for, else what is wrong with it."""
    if not isinstance(error, LargePickle) and (names := refused_names(data)):
        return _asks_for_code(path, names)
    if error is not None:
        return CheckpointError(f"{path} {error}. Nothing was loaded; save only the state_dict() of the model.")
    return CheckpointError(
        f"{path} is not a checkpoint, or a truncated or corrupt one ({path.stat().st_size:,} bytes): it starts like a "
        "pickle but torch cannot read it. Expected safetensors, a numpy archive or a file of torch.save."
    )


def _asks_for_code(path: Path, names: tuple[str, ...]) -> CheckpointError:
    return CheckpointError(
        f"{path} asks for Python objects beyond tensors: {listed(names)}. Loading them could run code, so "
        "nothing was loaded. Save only the state_dict() of the model, or use safetensors."
    )
