"""FeatureCache: extracted features on disk, found again when nothing they depend on has changed.

An entry lives in ``root/KEY[:2]/KEY``, where KEY is the SHA-256 of everything that decides the values, until it is
cleared; nothing expires. One process writes an entry at a time, under ``root/KEY[:2]/KEY.lock``, a lock that the system
releases when the process dies; a complete entry is read without it. An entry whose manifest or file sizes are wrong is
rebuilt, with a warning; damage inside a file of the right size is found by `verify`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from richrep.errors import CacheError
from richrep.features.entry import CacheEntry, explain_write_errors, free_bytes, no_room_message, remove_entry
from richrep.features.manifest import BLOCK_ROWS, Manifest
from richrep.features.sink import BlockSink, FinishedSink

logger = logging.getLogger(__name__)

_SILENT_WAIT_S = 1.0


@dataclass(frozen=True)
class CacheEntryInfo:
    """One line of `richrep cache`. `problem` says why an entry is of no use; its other facts are then empty or zero."""

    key: str
    backbone: str = ""
    address: str = ""
    dataset: str = ""
    part: str = ""
    layer: str = ""
    rows: int = 0
    dim: int = 0
    blocks_done: int = 0
    blocks_total: int = 0
    size_bytes: int = 0
    problem: str = ""

    @property
    def complete(self) -> bool:
        """Whether every row is there."""
        return not self.problem and self.blocks_done == self.blocks_total

    def matches(self, pattern: str | None) -> bool:
        """Whether `pattern` occurs in the key, the backbone's name or address, "dataset/part" or the layer."""
        text = f"{self.key} {self.backbone} {self.address} {self.dataset}/{self.part} {self.layer}"
        return pattern is None or pattern.lower() in text.lower()


@dataclass(frozen=True)
class DamagedBlock:
    """A block whose bytes on disk are not the ones that were written."""

    entry: CacheEntryInfo
    block: int


class FeatureCache:
    """Extracted features under `root`, which need not exist yet.

    Args:
        root: the folder, by default of the command line `$RICHREP_HOME/features`.
        block_rows: rows of a block, the unit of resuming. Part of the key, because batches restart at every block.
    """

    def __init__(self, root: str | os.PathLike[str], *, block_rows: int = BLOCK_ROWS) -> None:
        if block_rows < 1:
            raise ValueError(f"block_rows must be at least 1, got {block_rows}.")
        self.root = Path(root).expanduser()
        self.block_rows = block_rows

    def __repr__(self) -> str:
        return f"FeatureCache({str(self.root)!r})"

    def find(self, manifest: Manifest) -> FinishedSink | None:
        """The complete entry of `manifest`, or None; takes no lock and writes nothing.

        Its data are mapped here and now: clearing the cache takes nothing away from who has found it.
        """
        entry = CacheEntry(self._folder(manifest.key), manifest)
        try:
            if entry.problem() or not entry.done().all():
                return None
            return FinishedSink(manifest, entry.features(), entry.skipped())
        except FileNotFoundError:  # cleared meanwhile
            return None

    @contextlib.contextmanager
    def open(self, manifests: Sequence[Manifest]) -> Iterator[list[BlockSink]]:
        """The entries of `manifests`, in order; those not complete are created or resumed, and locked until the end.

        Waits for other processes that write one of them; what they finish is not done again. Locks are taken in the
        order of the keys, so that processes that want the same entries in another order do not wait for each other.

        Raises:
            CacheError: the folder cannot be written, or the disk has no room for all the entries.
        """
        with contextlib.ExitStack() as locks:
            sinks: dict[str, BlockSink] = {}
            to_write = []
            for manifest in sorted(manifests, key=lambda m: m.key):
                sink = self.find(manifest) or self._find_or_lock(manifest, locks)
                if isinstance(sink, CacheEntry):
                    to_write.append(sink)
                sinks[manifest.key] = sink
            self._make_ready(to_write)
            yield [sinks[manifest.key] for manifest in manifests]

    def entries(self) -> list[CacheEntryInfo]:
        """Every entry, complete or not, sorted by dataset, part, backbone, layer and key."""
        infos = [_describe(folder) for folder in self._folders()]
        return sorted(infos, key=lambda i: (i.dataset, i.part, i.backbone, i.layer, i.key))

    def verify(self, pattern: str | None = None) -> list[DamagedBlock]:
        """Compares every finished block with the SHA-256 written beside it; reads all data once.

        A damaged entry is repaired by clearing it and extracting again.
        """
        sound = [info for info in self.entries() if info.matches(pattern) and not info.problem]
        return [
            DamagedBlock(info, block)
            for info in sound
            for block in CacheEntry.read(self._folder(info.key)).damaged_blocks()
        ]

    def clear(self, pattern: str | None = None) -> tuple[int, int]:
        """Deletes the entries that match (see `CacheEntryInfo.matches`; None: all); returns their count and bytes.

        An entry that a process is writing stays, with a warning. Features already loaded stay readable.
        """
        count = size_bytes = 0
        for info in self.entries():
            if info.matches(pattern) and self._remove(info):
                count, size_bytes = count + 1, size_bytes + info.size_bytes
        return count, size_bytes

    def _remove(self, info: CacheEntryInfo) -> bool:
        folder = self._folder(info.key)
        try:
            with explain_write_errors(folder, 0), FileLock(self._lock_file(info.key), timeout=0):
                remove_entry(folder)
        except Timeout:
            logger.warning(
                "Left %s (%s on %s/%s): it is being written.", folder, info.backbone, info.dataset, info.part
            )
            return False
        return True

    def _make_ready(self, entries: Sequence[CacheEntry]) -> None:
        """Creates what is missing or of no use; the others lose what a killed writer left."""
        new = [entry for entry in entries if entry.problem()]
        for entry in new:
            if entry.folder.exists():
                logger.warning("Rebuilding the cache entry %s: %s.", entry.folder, entry.problem())
                with explain_write_errors(entry.folder, entry.data_bytes):
                    remove_entry(entry.folder)
        needed_bytes = sum(entry.data_bytes for entry in new)
        if new and needed_bytes > free_bytes(self.root):
            raise CacheError(no_room_message(self.root, needed_bytes))
        for entry in new:
            entry.create()
        for entry in entries:
            entry.sweep()

    def _find_or_lock(self, manifest: Manifest, locks: contextlib.ExitStack) -> FinishedSink | CacheEntry:
        """The entry as another process has finished it while we waited, or else to be written, its lock in `locks`."""
        lock = self._acquire(manifest)
        found = self.find(manifest)
        if found is not None:
            lock.release()
            return found
        locks.callback(lock.release)
        return CacheEntry(self._folder(manifest.key), manifest)

    def _acquire(self, manifest: Manifest) -> FileLock:
        """The lock of an entry, held; says so when that takes more than a second."""
        file = self._lock_file(manifest.key)
        lock = FileLock(file)
        with explain_write_errors(self.root, 4 * manifest.rows * manifest.dim):
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=_SILENT_WAIT_S)
            except Timeout:
                logger.warning("Waiting for another process that is writing the %s.", manifest.title)
                lock.acquire()
        return lock

    def _folders(self) -> list[Path]:
        """Entries by their names, 64 hex digits under their first two; nothing else below the root is ours."""
        named = (folder for folder in self.root.glob("??/*") if re.fullmatch("[0-9a-f]{64}", folder.name))
        return [folder for folder in named if folder.parent.name == folder.name[:2] and folder.is_dir()]

    def _folder(self, key: str) -> Path:
        return self.root / key[:2] / key

    def _lock_file(self, key: str) -> Path:
        return self.root / key[:2] / f"{key}.lock"


def _describe(folder: Path) -> CacheEntryInfo:
    try:
        entry = CacheEntry.read(folder)
        problem = entry.problem()
        blocks_done = 0 if problem else int(entry.done().sum())
    except (OSError, ValueError, TypeError) as error:
        return CacheEntryInfo(folder.name, size_bytes=_size_bytes(folder), problem=f"no sound manifest ({error})")
    manifest = entry.manifest
    return CacheEntryInfo(
        key=folder.name,
        backbone=manifest.backbone,
        address=manifest.address,
        dataset=manifest.dataset,
        part=manifest.part,
        layer=manifest.layer,
        rows=manifest.rows,
        dim=manifest.dim,
        blocks_done=blocks_done,
        blocks_total=manifest.num_blocks,
        size_bytes=_size_bytes(folder),
        problem=problem,
    )


def _size_bytes(folder: Path) -> int:
    total = 0
    for file in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):  # cleared or renamed meanwhile
            total += file.stat().st_size
    return total
