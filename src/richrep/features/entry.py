"""CacheEntry: one feature matrix on disk, written block by block, each whole or not there.

A folder of

- ``manifest.json``: what the entry holds; written last on creation, so that a folder with it has all its files;
- ``features.bin``: (N, D) float32 or float16 as the manifest says, little-endian, at full size from the start;
- ``blocks.bin``: 32 bytes a block: zeros, or the SHA-256 of the block's bytes and of its list of skipped images;
- ``skipped-00000007.json``: row and reason of the images of block 7 that could not be decoded; absent without any;
- ``engine-torch``: an empty file for each engine that computed a block of it, for people; not part of the key.

A block's mark is written after its data have reached the disk, and 32 bytes at a multiple of 32 never straddle a disk
sector. So a kill at any moment costs at most the block in progress. Nothing in the folder depends on time or chance:
runs of one process or many, interrupted or not, leave the same bytes, and a block written twice is written the same.
That holds for one engine on processors of one kind with as many threads a batch; others differ by rounding, engines
within the tolerance that each is held to (engines/choose.py).

While somebody computes block 7, he holds the lock file ``KEY.claims/00000007`` beside the folder. It vanishes with the
claim; one whose holder was killed is free for others, and goes when the last writer leaves.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout

from richrep.errors import CacheError
from richrep.features.disk import allocate, explain_write_errors, replace_file, write_at
from richrep.features.manifest import Manifest

MARK_BYTES = 32
_ENGINE = "engine-"


class StoredArray(NamedTuple):
    """Where a feature matrix lies: row by row, little-endian, from the first byte of the file."""

    path: Path
    dtype: np.dtype
    shape: tuple[int, int]


class CacheEntry:
    """A BlockSink on disk, which need not be there yet.

    Making one reads nothing. `create` and `sweep` want the entry's lock alone, claims and `write_block` want it shared.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._data, self._table = folder / "features.bin", folder / "blocks.bin"
        self._claims = _claims_folder(folder)
        self._claimed: dict[int, FileLock] = {}

    @classmethod
    def read(cls, folder: Path) -> CacheEntry:
        """The entry in `folder`, by its own manifest. Raises OSError, ValueError or TypeError without a sound one."""
        return cls(folder, Manifest.from_json((folder / "manifest.json").read_text(encoding="utf-8")))

    @property
    def array(self) -> StoredArray:
        """Path, type and shape (N, D) of the data; costs nothing, the file is not looked at."""
        return StoredArray(self._data, self.manifest.dtype, (self.manifest.rows, self.manifest.dim))

    @property
    def data_bytes(self) -> int:
        """Size of features.bin."""
        return self.manifest.rows * self._row_bytes

    @property
    def _row_bytes(self) -> int:
        return self.manifest.dim * self.manifest.dtype.itemsize

    def problem(self) -> str:
        """Why the files cannot be used, by all but the data; "" when they can. `damaged_blocks` looks at the data."""
        here = self.manifest
        expected = self.data_bytes, MARK_BYTES * here.num_blocks
        try:
            stored = CacheEntry.read(self.folder).manifest
            sizes = self._data.stat().st_size, self._table.stat().st_size
            if (stored.key, stored.rows, stored.dim, stored.store) != (here.key, here.rows, here.dim, here.store):
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
                allocate(self._data, self.data_bytes)
                allocate(self._table, MARK_BYTES * self.manifest.num_blocks)
                replace_file(self.folder / "manifest.json", self.manifest.to_json().encode())
        except CacheError:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def needs_sweeping(self) -> bool:
        """Whether writers, living or killed, have files beside the data: half-written lists, claims."""
        return self._claims.exists() or any(self.folder.glob("*.tmp"))

    def sweep(self) -> None:
        """Deletes these files. Only with the entry's lock held alone: then their writers are dead."""
        for leftover in self.folder.glob("*.tmp"):
            leftover.unlink()
        shutil.rmtree(self._claims, ignore_errors=True)

    def claim(self, block: int) -> bool:
        lock = FileLock(self._claims / f"{block:08d}")
        with explain_write_errors(self._claims, 0):
            self._claims.mkdir(exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return False
        self._claimed[block] = lock
        return True

    def release(self, block: int) -> None:
        lock = self._claimed.pop(block)
        with contextlib.suppress(OSError):  # Windows deletes no open file: `sweep` does it
            Path(lock.lock_file).unlink()  # still held: whoever had opened it gets a claim that nobody else sees, once
        lock.release()

    def release_all(self) -> None:
        """Gives back every block that was claimed and not written."""
        for block in list(self._claimed):
            self.release(block)

    def done(self) -> np.ndarray:
        marks = np.fromfile(self._table, dtype=np.uint8).reshape(-1, MARK_BYTES)
        return np.asarray(marks.any(axis=1))

    def write_block(self, block: int, features: torch.Tensor, skipped: Mapping[int, str], *, engine: str = "") -> None:
        data = features.numpy().astype(self.manifest.dtype, copy=False).tobytes()
        listed = _encode_skipped(skipped)
        with explain_write_errors(self.folder, self.data_bytes):
            if skipped:
                replace_file(self._skipped_file(block), listed)
            else:
                self._skipped_file(block).unlink(missing_ok=True)
            if engine:
                (self.folder / f"{_ENGINE}{engine}").touch()  # one file each: no two workers write the same list
            write_at(self._data, self._offset(block), data)
            write_at(self._table, block * MARK_BYTES, _mark(data, listed))
        if block in self._claimed:
            self.release(block)

    def features(self) -> torch.Tensor:
        """(N, D), mapped from the file: reads and copies nothing, and writing into it does not reach the file."""
        path, dtype, shape = self.array
        if 0 in shape:
            return torch.from_numpy(np.empty(shape, dtype))
        return torch.from_numpy(np.memmap(path, dtype=dtype, mode="c", shape=shape))

    def skipped(self) -> dict[int, str]:
        skipped: dict[int, str] = {}
        for block in np.flatnonzero(self.done()):
            skipped |= {item["row"]: item["reason"] for item in json.loads(self._read_skipped(int(block)))}
        return skipped

    def engines(self) -> tuple[str, ...]:
        return tuple(sorted(file.name.removeprefix(_ENGINE) for file in self.folder.glob(f"{_ENGINE}*")))

    def damaged_blocks(self) -> list[int]:
        """The blocks marked done whose bytes are not the ones that were written."""
        table = self._table.read_bytes()
        return [int(block) for block in np.flatnonzero(self.done()) if not self._is_sound(int(block), table)]

    def _is_sound(self, block: int, table: bytes) -> bool:
        with self._data.open("rb") as file:
            file.seek(self._offset(block))
            data = file.read(len(self.manifest.block_range(block)) * self._row_bytes)
        return _mark(data, self._read_skipped(block)) == table[block * MARK_BYTES : (block + 1) * MARK_BYTES]

    def _offset(self, block: int) -> int:
        return block * self.manifest.block_rows * self._row_bytes

    def _skipped_file(self, block: int) -> Path:
        return self.folder / f"skipped-{block:08d}.json"

    def _read_skipped(self, block: int) -> bytes:
        file = self._skipped_file(block)
        return file.read_bytes() if file.exists() else _encode_skipped({})


def remove_entry(folder: Path) -> None:
    """Deletes a folder, its manifest first: half removed is not there. Who has the data mapped keeps the old bytes."""
    (folder / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(folder)
    shutil.rmtree(_claims_folder(folder), ignore_errors=True)


def _claims_folder(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.claims")


def _mark(data: bytes, skipped: bytes) -> bytes:
    return hashlib.sha256(data + skipped).digest()


def _encode_skipped(skipped: Mapping[int, str]) -> bytes:
    items = [{"row": row, "reason": skipped[row]} for row in sorted(skipped)]
    return (json.dumps(items, indent=2, ensure_ascii=False) + "\n").encode() if items else b"[]"
