"""CacheEntry: one feature matrix on disk, written block by block, each whole or not there.

A folder of

- ``manifest.json``: what the entry holds; written last on creation, so that a folder with it has all its files;
- ``features.bin``: (N, D) float32, little-endian, at full size from the start;
- ``blocks.bin``: 32 bytes a block: zeros, or the SHA-256 of the block's bytes and of its list of skipped images;
- ``skipped-00000007.json``: row and reason of the images of block 7 that could not be decoded; absent without any.

A block's mark is written after its data have reached the disk, and 32 bytes at a multiple of 32 never straddle a disk
sector. So a kill at any moment costs at most the block in progress. Nothing in the folder depends on time or chance:
two runs, interrupted or not, leave the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from richrep.errors import CacheError
from richrep.features.manifest import Manifest

MARK_BYTES = 32
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class CacheEntry:
    """A BlockSink on disk. The folder need not exist yet; `create`, `write_block` and `sweep` want the entry's lock."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._data, self._table = folder / "features.bin", folder / "blocks.bin"

    @classmethod
    def read(cls, folder: Path) -> CacheEntry:
        """The entry in `folder`, by its own manifest. Raises OSError, ValueError or TypeError without a sound one."""
        return cls(folder, Manifest.from_json((folder / "manifest.json").read_text(encoding="utf-8")))

    @property
    def data_bytes(self) -> int:
        """Size of features.bin."""
        return 4 * self.manifest.rows * self.manifest.dim

    def problem(self) -> str:
        """Why the files cannot be used, by all but the data; "" when they can. `damaged_blocks` looks at the data."""
        here = self.manifest
        expected = self.data_bytes, MARK_BYTES * here.num_blocks
        try:
            stored = CacheEntry.read(self.folder).manifest
            sizes = self._data.stat().st_size, self._table.stat().st_size
            if (stored.key, stored.rows, stored.dim) != (here.key, here.rows, here.dim):
                return "its manifest belongs to another entry"
            if sizes != expected:
                return f"its files have {sizes} bytes instead of {expected}"
            self.skipped()
        except (OSError, ValueError, TypeError, KeyError) as error:
            return f"its files cannot be read ({error})"
        return ""

    def create(self) -> None:
        """Makes the files at full size with no block done, or raises CacheError with nothing left behind."""
        try:
            with explain_write_errors(self.folder, self.data_bytes):
                self.folder.mkdir(parents=True, exist_ok=True)
                _allocate(self._data, self.data_bytes)
                _allocate(self._table, MARK_BYTES * self.manifest.num_blocks)
                _replace_file(self.folder / "manifest.json", self.manifest.to_json().encode())
        except CacheError:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def sweep(self) -> None:
        """Deletes what a killed writer left half written. Only under the entry's lock."""
        for leftover in self.folder.glob("*.tmp"):
            leftover.unlink()

    def done(self) -> np.ndarray:
        marks = np.fromfile(self._table, dtype=np.uint8).reshape(-1, MARK_BYTES)
        return np.asarray(marks.any(axis=1))

    def write_block(self, block: int, features: torch.Tensor, skipped: Mapping[int, str]) -> None:
        data = features.numpy().astype("<f4", copy=False).tobytes()
        listed = _encode_skipped(skipped)
        with explain_write_errors(self.folder, self.data_bytes):
            if skipped:
                _replace_file(self._skipped_file(block), listed)
            else:
                self._skipped_file(block).unlink(missing_ok=True)
            _write_at(self._data, self._offset(block), data)
            _write_at(self._table, block * MARK_BYTES, _mark(data, listed))

    def features(self) -> torch.Tensor:
        """(N, D) float32, mapped from the file: costs no copy, and writing into it does not reach the file."""
        shape = self.manifest.rows, self.manifest.dim
        if 0 in shape:
            return torch.empty(shape)
        return torch.from_numpy(np.memmap(self._data, dtype="<f4", mode="c", shape=shape))

    def skipped(self) -> dict[int, str]:
        skipped: dict[int, str] = {}
        for block in np.flatnonzero(self.done()):
            skipped |= {item["row"]: item["reason"] for item in json.loads(self._read_skipped(int(block)))}
        return skipped

    def damaged_blocks(self) -> list[int]:
        """The blocks marked done whose bytes are not the ones that were written."""
        table = self._table.read_bytes()
        return [int(block) for block in np.flatnonzero(self.done()) if not self._is_sound(int(block), table)]

    def _is_sound(self, block: int, table: bytes) -> bool:
        with self._data.open("rb") as file:
            file.seek(self._offset(block))
            data = file.read(4 * len(self.manifest.block_range(block)) * self.manifest.dim)
        return _mark(data, self._read_skipped(block)) == table[block * MARK_BYTES : (block + 1) * MARK_BYTES]

    def _offset(self, block: int) -> int:
        return 4 * self.manifest.block_rows * self.manifest.dim * block

    def _skipped_file(self, block: int) -> Path:
        return self.folder / f"skipped-{block:08d}.json"

    def _read_skipped(self, block: int) -> bytes:
        file = self._skipped_file(block)
        return file.read_bytes() if file.exists() else _encode_skipped({})


def remove_entry(folder: Path) -> None:
    """Deletes a folder, its manifest first: half removed is not there. Who has the data mapped keeps the old bytes."""
    (folder / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(folder)


@contextlib.contextmanager
def explain_write_errors(path: Path, needed_bytes: int) -> Iterator[None]:
    """Turns an OSError into a CacheError that names the path and what to do."""
    try:
        yield
    except TimeoutError:  # of a lock
        raise
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise CacheError(no_room_message(path, needed_bytes)) from error
        raise CacheError(
            f"The feature cache cannot be written at {path} ({error.strerror or error}). "
            "Choose a folder that can be written with --cache-dir, or set RICHREP_HOME."
        ) from error


def no_room_message(path: Path, needed_bytes: int) -> str:
    """What a full disk says: path, size needed, size free, what to do."""
    return (
        f"No room for features at {path}: {needed_bytes / 1e6:.1f} MB are needed, {free_bytes(path) / 1e6:.1f} MB are "
        "free. Make room (`richrep cache clear` drops extracted features), or choose another disk with --cache-dir or "
        "RICHREP_HOME."
    )


def free_bytes(path: Path) -> int:
    """Free bytes of the disk that `path` lies on, or will lie on."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def _mark(data: bytes, skipped: bytes) -> bytes:
    return hashlib.sha256(data + skipped).digest()


def _encode_skipped(skipped: Mapping[int, str]) -> bytes:
    items = [{"row": row, "reason": skipped[row]} for row in sorted(skipped)]
    return (json.dumps(items, indent=2, ensure_ascii=False) + "\n").encode() if items else b"[]"


def _allocate(path: Path, size_bytes: int) -> None:
    """A new file of `size_bytes` zeros whose place on the disk is taken, not only promised."""
    with path.open("wb") as file:
        if size_bytes and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size_bytes)
        else:
            for start in range(0, size_bytes, 1 << 20):
                file.write(bytes(min(1 << 20, size_bytes - start)))
        file.flush()
        os.fsync(file.fileno())


def _write_at(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _replace_file(path: Path, content: bytes) -> None:
    """Writes `path` whole or not at all. A kill may leave the temporary file, which the next writer overwrites."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
