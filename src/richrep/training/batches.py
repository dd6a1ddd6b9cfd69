"""Batches of images for training, each made from (seed, step) alone: any step can be asked for, in any order."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from richrep.data.augment import RandomView, view_generator
from richrep.data.preprocessing import Geometry, Preprocessing
from richrep.data.split import Split
from richrep.errors import RichrepError

Batch = tuple[torch.Tensor, ...]

_AHEAD = 2  # batches made while the network works


def load_pixels(split: Split, geometry: Geometry) -> torch.Tensor:
    """All images of `split` as uint8 (N, H, W, 3), decoded once; for data sets that fit in memory."""
    return torch.stack([torch.from_numpy(geometry.apply(split.load_image(row)).copy()) for row in range(len(split))])


class Batches(Protocol):
    """What the loop trains on."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one pass over the images."""
        ...

    def batch(self, step: int) -> Batch:
        """The batch of `step` (from 0): tensors of equal length, the objective's arguments. Called from threads."""
        ...


@dataclass(frozen=True, eq=False)
class ImageBatches:
    """Shuffled images of a split and their labels; every epoch in a new order and, with a view, under new views.

    Attributes:
        preprocessing: its geometry applies when there is no view; a view ends at its size; its mean and std always do.
        view: random crop and flip; None for the deterministic view.
        drop_last: leave out the short batch at the end of an epoch; there must be a whole one then.
        extra: tensors of N rows, given beside images and labels (outputs of teachers).
        rank, num_processes: this process takes every `num_processes`-th image of a batch; all of them take a
            whole batch that has fewer images than there are processes.
    """

    split: Split
    preprocessing: Preprocessing
    batch_size: int
    seed: int
    view: RandomView | None = None
    drop_last: bool = False
    extra: Sequence[torch.Tensor] = field(default=())
    rank: int = 0
    num_processes: int = 1

    def __post_init__(self) -> None:
        most = len(self.split) if self.drop_last else 2**31
        if not 1 <= self.batch_size <= most:
            raise RichrepError(f"batch_size must be in [1, {most}], got {self.batch_size}: {len(self.split)} images.")
        if self.batch_size < self.num_processes:
            raise RichrepError(
                f"batch_size {self.batch_size} is less than the {self.num_processes} processes that share it. "
                "Give at least one image a process."
            )

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one pass over the images."""
        whole, rest = divmod(len(self.split), self.batch_size)
        return whole + int(rest > 0 and not self.drop_last)

    def rows(self, step: int) -> np.ndarray:
        """Rows (B,) of the split that make up the batch of `step`, over all processes."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.split))
        return order[place * self.batch_size : (place + 1) * self.batch_size]

    def batch(self, step: int) -> Batch:
        """Images (B, 3, H, W), labels (B,) int64, and the rows of `extra`; this process's share."""
        rows = self.rows(step)
        if len(rows) >= self.num_processes:
            rows = rows[self.rank :: self.num_processes]
        epoch = step // self.steps_per_epoch
        pixels = torch.stack([torch.from_numpy(self._pixels(int(row), epoch)) for row in rows])
        labels = torch.from_numpy(self.split.labels[rows])
        return (self.preprocessing.normalize(pixels), labels, *(values[rows] for values in self.extra))

    def _pixels(self, row: int, epoch: int) -> np.ndarray:
        image, geometry = self.split.load_image(row), self.preprocessing.geometry
        if self.view is None:
            return geometry.apply(image).copy()
        return self.view.apply(image, geometry, view_generator(seed=self.seed, draw=epoch, row=row)).copy()


def read_ahead(batches: Batches, first: int, last: int, *, pin: bool = False) -> Generator[Batch, None, None]:
    """The batches of steps `first` to `last` - 1 in order, made in threads while the caller works on the one before.

    Args:
        pin: put them in memory from which a CUDA device copies without waiting.
    """

    def make(step: int) -> Batch:
        batch = batches.batch(step)
        return tuple(values.pin_memory() for values in batch) if pin else batch

    with ThreadPoolExecutor(_AHEAD, thread_name_prefix="richrep-batch") as pool:
        waiting: list[Future[Batch]] = []
        try:
            for step in range(first, min(first + _AHEAD, last)):
                waiting.append(pool.submit(make, step))
            for step in range(first, last):
                if step + _AHEAD < last:
                    waiting.append(pool.submit(make, step + _AHEAD))
                yield waiting.pop(0).result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
