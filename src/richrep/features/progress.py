"""Progress of an extraction, as numbers; how they are shown is the caller's business."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class ExtractionProgress:
    """How far an extraction has come. An image or a block counts as done when every backbone has it.

    Attributes:
        images_done: images done, by this process or others, those found in the cache included; images_total: N, or the
            images of the shard.
        images_cached: images of blocks that were found done in the cache.
        blocks_done, blocks_total, blocks_cached: the same in blocks; a block is safe from a kill, an image is not.
        elapsed_s: seconds since the first image of this run was asked for.
    """

    images_done: int
    images_total: int
    images_cached: int
    blocks_done: int
    blocks_total: int
    blocks_cached: int
    elapsed_s: float

    @property
    def images_per_s(self) -> float:
        """Images per second since the start, by all workers; what was found in the cache does not count."""
        return (self.images_done - self.images_cached) / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Time left at the present rate; None while there is no rate yet.

        >>> ExtractionProgress(60, 100, 40, 6, 10, 4, elapsed_s=10.0).seconds_left  # 20 images in 10 s, 40 to go
        20.0
        """
        left = self.images_total - self.images_done
        if left == 0:
            return 0.0
        return left / self.images_per_s if self.images_per_s > 0 else None


ProgressCallback = Callable[[ExtractionProgress], None]


class ProgressMeter:
    """Counts images and blocks and calls `callback` after each step, in the thread that extracts."""

    def __init__(self, callback: ProgressCallback | None, *, images: int, blocks: int) -> None:
        self._callback = callback
        self._images_total, self._blocks_total = images, blocks
        self._images_done = self._blocks_done = self._images_cached = self._blocks_cached = 0
        self._start_s = time.perf_counter()

    def found(self, *, images: int, blocks: int) -> None:
        """Counts what was found done, before the first batch."""
        self._images_done = self._images_cached = images
        self._blocks_done = self._blocks_cached = blocks
        self._start_s = time.perf_counter()
        self._report()

    def start(self) -> None:
        """Starts the clock anew: what was done until now was getting ready."""
        self._start_s = time.perf_counter()

    def add_images(self, count: int) -> None:
        """Counts one batch."""
        self._images_done += count
        self._report()

    def add_block(self) -> None:
        """Counts one block that is done and kept."""
        self._blocks_done += 1
        self._report()

    def add_elsewhere(self, *, images: int, blocks: int) -> None:
        """Counts what other workers have finished meanwhile."""
        self._images_done += images
        self._blocks_done += blocks
        self._report()

    def _report(self) -> None:
        if self._callback is not None:
            self._callback(
                ExtractionProgress(
                    images_done=self._images_done,
                    images_total=self._images_total,
                    images_cached=self._images_cached,
                    blocks_done=self._blocks_done,
                    blocks_total=self._blocks_total,
                    blocks_cached=self._blocks_cached,
                    elapsed_s=time.perf_counter() - self._start_s,
                )
            )
