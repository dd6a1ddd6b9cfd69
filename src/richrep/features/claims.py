"""Claims: how several workers fill the same entries, each block by one of them.

Workers are processes on one machine or on several; they know of each other only through the file system. A worker walks
over the blocks in order and takes what nobody has taken: a fast one takes more, none waits before everything is either
done or taken. A claim is a lock (entry.py), which the system releases when its holder dies, however it dies; the block
is then free again, and the workers that are left compute it. (One that hangs keeps its blocks until it is killed.)
Nothing depends on claims but the time: a block computed twice is written twice, with the same bytes where both workers
use one engine on processors of one kind, and otherwise within the tolerance of the engines.

Where locks do not reach from machine to machine (some network file systems), give each machine a shard of its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence

import numpy as np

from richrep.features.progress import ProgressMeter
from richrep.features.sink import BlockSink

logger = logging.getLogger(__name__)

_POLL_S = 0.05, 1.0  # first and longest pause while others hold all that is missing
_SILENT_WAIT_S = 1.0


class BlockClaims:
    """What is still to do for `sinks` among `blocks`, claimed block by block.

    Args:
        sinks: all of the same rows and blocks.
        blocks: the blocks to consider, in order; the whole entry or a shard of it.
        meter: told what was found done, and what other workers do meanwhile.
    """

    def __init__(self, sinks: Sequence[BlockSink], blocks: Sequence[int], meter: ProgressMeter) -> None:
        self._sinks, self._blocks, self._meter = sinks, blocks, meter
        self._counted = self._all_done()
        self._ours: set[int] = set()
        meter.found(images=self._rows_of(self._counted), blocks=len(self._counted))

    def lacking(self) -> list[int]:
        """Positions of the sinks that lack some of the blocks."""
        return [i for i, sink in enumerate(self._sinks) if not sink.done()[self._blocks].all()]

    def first_missing(self) -> int:
        """The first block that some sink lacks, whoever holds it; the first of all when others have just finished."""
        done = self._all_done()
        return next((block for block in self._blocks if block not in done), self._blocks[0])

    def rounds(self) -> Iterator[Iterator[tuple[int, list[int]]]]:
        """Until every block is there: iterators over free blocks, each claimed for the sinks (positions) that lack it.

        An iterator ends when no free block is left, without waiting, so that it can be read ahead of the work. Between
        two of them, when all that is missing is held by others, it waits for them to finish or to die.
        """
        pause, waited = _POLL_S[0], 0.0
        while self.lacking():
            before = len(self._ours)
            yield self._one_round()
            if len(self._ours) > before:
                pause, waited = _POLL_S[0], 0.0
            elif self.lacking():
                time.sleep(pause)
                if waited <= _SILENT_WAIT_S < waited + pause:
                    logger.warning("Waiting for blocks that other processes are computing: %s.", self._titles())
                waited += pause
                pause = min(2 * pause, _POLL_S[1])
            self._count_others()

    def _one_round(self) -> Iterator[tuple[int, list[int]]]:
        done = self._all_done()
        for block in self._blocks:
            claimed = [] if block in done else self._claim(block)
            if claimed:
                self._ours.add(block)
                self._count_others()
                yield block, claimed

    def _claim(self, block: int) -> list[int]:
        """Positions of the sinks that lack `block`, all claimed; none when another worker holds one of them.

        Sinks are claimed in the order of their keys, so that of several workers one always gets all it wants.
        """
        claimed: list[int] = []
        for i in sorted(self._without(block), key=lambda i: self._sinks[i].manifest.key):
            if not self._sinks[i].claim(block):
                self._release(block, claimed)
                return []
            claimed.append(i)
        wanted = [i for i in self._without(block) if i in claimed]  # another may have finished it just before
        self._release(block, [i for i in claimed if i not in wanted])
        return wanted

    def _without(self, block: int) -> list[int]:
        """Positions of the sinks that lack `block` now."""
        return [i for i, sink in enumerate(self._sinks) if not sink.done()[block]]

    def _release(self, block: int, positions: Sequence[int]) -> None:
        for i in positions:
            self._sinks[i].release(block)

    def _all_done(self) -> set[int]:
        """The blocks that every sink has."""
        done = np.logical_and.reduce([sink.done() for sink in self._sinks])
        return {block for block in self._blocks if done[block]}

    def _count_others(self) -> None:
        others = self._all_done() - self._ours - self._counted
        if others:
            self._counted |= others
            self._meter.add_elsewhere(images=self._rows_of(others), blocks=len(others))

    def _rows_of(self, blocks: set[int]) -> int:
        manifest = self._sinks[0].manifest
        return sum(len(manifest.block_range(block)) for block in blocks)

    def _titles(self) -> str:
        return ", ".join(self._sinks[i].manifest.title for i in self.lacking())
