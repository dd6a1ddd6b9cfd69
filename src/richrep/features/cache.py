"""FeatureCache: extracted features on disk, found again when nothing they depend on has changed.

An entry lives in ``root/KEY[:2]/KEY``, where KEY is the SHA-256 of everything that decides the values, until it is
cleared; nothing expires. Any number of processes write an entry together, each the blocks it has claimed (claims.py);
they share the lock ``root/KEY[:2]/KEY.lock``, which is held alone to create, rebuild or clear the entry
(entry_lock.py). A complete entry is read without it. An entry whose manifest or file sizes are wrong is rebuilt, with a
warning, once nobody writes it; damage inside a file of the right size is found by `verify`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from filelock import FileLock, Timeout

from richrep.errors import CacheError, unknown_name_message
from richrep.features.disk import explain_write_errors, free_bytes, no_room_message
from richrep.features.entry import CacheEntry, remove_entry
from richrep.features.entry_lock import SILENT_WAIT_S, hold_shared, try_alone
from richrep.features.manifest import BLOCK_ROWS, Manifest, Store
from richrep.features.sink import BlockSink, FinishedSink

logger = logging.getLogger(__name__)


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
    store: str = ""
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
        store: "fp32" keeps features as they were computed; "fp16" rounds them to float16 (relative error up to 2^-11),
            in half the room. Part of the key.
    """

    def __init__(self, root: str | os.PathLike[str], *, block_rows: int = BLOCK_ROWS, store: Store = "fp32") -> None:
        if block_rows < 1:
            raise ValueError(f"block_rows must be at least 1, got {block_rows}.")
        if store not in get_args(Store):
            raise CacheError(unknown_name_message("storage type", store, get_args(Store)))
        self.store: Store = store
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
            return FinishedSink(manifest, entry.features(), entry.skipped(), entry.engines())
        except FileNotFoundError:  # cleared meanwhile
            return None

    @contextlib.contextmanager
    def open(self, manifests: Sequence[Manifest]) -> Iterator[list[BlockSink]]:
        """The entries of `manifests`, in order; those not complete are created or resumed, together with who else does.

        Until the end nobody clears or rebuilds them. What was claimed and not written is then given back.

        Raises:
            CacheError: the folder cannot be written, or the disk has no room for all the entries.
        """
        with contextlib.ExitStack() as session:
            # In the order of the keys, so that processes that want the same entries do not wait for each other.
            ordered = sorted(manifests, key=lambda m: m.key)
            entries = {m.key: CacheEntry(self._folder(m.key), m) for m in ordered}
            finished = {m.key: sink for m in ordered if (sink := self.find(m)) is not None}
            to_write = [entry for key, entry in entries.items() if key not in finished]
            session.callback(self._sweep, list(entries.values()))  # callbacks run last to first
            self._join(to_write, session)
            for entry in to_write:
                session.callback(entry.release_all)
            yield [finished.get(m.key, entries[m.key]) for m in manifests]

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

    def _join(self, entries: Sequence[CacheEntry], session: contextlib.ExitStack) -> None:
        """Leaves `entries` sound, and their locks shared until the end of `session`.

        Who cannot have a lock alone looks again: whoever had it may have made the entry and be writing it for hours.
        """
        start_s, silent = time.perf_counter(), True
        while True:
            with contextlib.ExitStack() as shared:
                for entry in entries:
                    shared.enter_context(hold_shared(self._ready_lock(entry), title=entry.manifest.title))
                unsound = [entry for entry in entries if entry.problem()]
                if not unsound:
                    session.push(shared.pop_all())
                    return
            with contextlib.ExitStack() as alone:
                if all(alone.enter_context(try_alone(self._ready_lock(entry))) for entry in unsound):
                    self._make_ready([entry for entry in unsound if entry.problem()])  # another may have done it
                elif silent and time.perf_counter() - start_s > SILENT_WAIT_S:
                    silent = False
                    logger.warning("Waiting for another process that is writing the %s.", unsound[0].manifest.title)

    def _make_ready(self, new: Sequence[CacheEntry]) -> None:
        """Creates entries that are missing or of no use, whose locks are held alone."""
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

    def _sweep(self, entries: Sequence[CacheEntry]) -> None:
        """The last to leave an entry deletes what killed writers left beside the data."""
        for entry in entries:
            if entry.needs_sweeping():
                lock = FileLock(self._lock_file(entry.manifest.key))
                with contextlib.suppress(OSError), lock.acquire(timeout=0):  # Timeout is an OSError: others go on
                    entry.sweep()

    def _ready_lock(self, entry: CacheEntry) -> Path:
        """The entry's lock file, in a folder that exists."""
        file = self._lock_file(entry.manifest.key)
        with explain_write_errors(self.root, entry.data_bytes):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        return file

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
        layer=manifest.layer + manifest.of_view,
        rows=manifest.rows,
        dim=manifest.dim,
        store=manifest.store,
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
