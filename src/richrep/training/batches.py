"""Batches of images for training, each made from (seed, step) alone: any step can be asked for, in any order."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import torch

from richrep.data.augment import RandomView, view_generator
from richrep.data.preprocessing import Geometry, Preprocessing
from richrep.data.split import Split
from richrep.errors import RichrepError

Batch = tuple[torch.Tensor, ...]

_AHEAD = 2  # batches made while the network works, where it takes the processor


def load_pixels(split: Split, geometry: Geometry) -> torch.Tensor:
    """All images of `split` as uint8 (N, H, W, 3), decoded once; for data sets that fit in memory."""
    return torch.stack([torch.from_numpy(geometry.apply(split.load_decoded(row)).copy()) for row in range(len(split))])


class Batches(Protocol):
    """What the loop trains on."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one pass over the images."""
        ...

    def batch(self, step: int) -> Batch:
        """The batch of `step` (from 0): tensors of equal length, the objective's arguments. Called from threads."""
        ...


def count_steps(num_images: int, batch_size: int) -> int:
    """Batches of an epoch that sees every image; a last one of a single image joins the batch before it."""
    whole, rest = divmod(num_images, batch_size)
    return max(1, whole + int(rest > 1))


@dataclass(frozen=True, eq=False)
class ImageBatches:
    """Shuffled images of a split and their labels; every epoch in a new order and, with a view, under new views.

    Attributes:
        preprocessing: its geometry applies when there is no view; a view ends at its size; its mean and std always do.
        view: random crop and flip; None for the deterministic view.
        drop_last: leave out the short batch at the end of an epoch; there must be a whole one then. Kept, a short one
            of a single image joins the batch before it, because batch normalisation cannot train on one image.
        num_views: V: epoch e sees view e mod V of every image, so that what was computed on V views fits; None draws
            new views for every epoch.
        extra: tensors of N rows, given beside images and labels (outputs of teachers). With `num_views` V times as
            many, those of the first view first; a batch gets those of its view.
        also: further preprocessings: after all else a batch holds the same crops of its images through each of them.
        only: rows of `split` to train on; None means all.
        halves: (N,) bool, one value a row of `split`: half of every batch is drawn evenly from the rows that are True,
            half from the others, whatever their numbers; an epoch has as many steps as ever. None, or rows of one kind
            alone: every row once an epoch.
        rank, num_processes: this process takes every `num_processes`-th image of a batch; all of them take a
            whole batch that has fewer images than there are processes.
    """

    split: Split
    preprocessing: Preprocessing
    batch_size: int
    seed: int
    view: RandomView | None = None
    drop_last: bool = False
    num_views: int | None = None
    extra: Sequence[torch.Tensor] = field(default=())
    also: Sequence[Preprocessing] = field(default=())
    only: np.ndarray | None = None
    halves: np.ndarray | None = None
    rank: int = 0
    num_processes: int = 1

    def __post_init__(self) -> None:
        most = self.num_images if self.drop_last else 2**31
        if not 1 <= self.batch_size <= most:
            raise RichrepError(f"batch_size must be in [1, {most}], got {self.batch_size}: {self.num_images} images.")
        if self.num_views is not None and (self.num_views < 1 or len(self.extra) % self.num_views):
            raise ValueError(f"num_views must divide the {len(self.extra)} tensors of extra, got {self.num_views}.")
        if self.batch_size < self.num_processes:
            raise RichrepError(
                f"batch_size {self.batch_size} is less than the {self.num_processes} processes that share it. "
                "Give at least one image a process."
            )

    @property
    def num_images(self) -> int:
        """Images of one epoch."""
        return len(self.split) if self.only is None else len(self.only)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one pass over the images."""
        if self.drop_last:
            return self.num_images // self.batch_size
        return count_steps(self.num_images, self.batch_size)

    def rows(self, step: int) -> np.ndarray:
        """Rows (B,) of the split that make up the batch of `step`, over all processes."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._kinds is not None:
            generator = np.random.default_rng([self.seed, epoch, place])
            sizes = (self.batch_size // 2, self.batch_size - self.batch_size // 2)
            return np.concatenate([_draw(kind, size, generator) for kind, size in zip(self._kinds, sizes, strict=True)])
        order = np.random.default_rng([self.seed, epoch]).permutation(self.num_images)
        is_last = place == self.steps_per_epoch - 1 and not self.drop_last
        chosen = order[place * self.batch_size : None if is_last else (place + 1) * self.batch_size]
        return chosen if self.only is None else self.only[chosen]

    @cached_property
    def _kinds(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The rows that make up either half of a batch; None where batches are not halved."""
        if self.halves is None:
            return None
        rows = np.arange(len(self.split)) if self.only is None else self.only
        kinds = rows[self.halves[rows]], rows[~self.halves[rows]]
        return kinds if min(map(len, kinds)) else None

    def batch(self, step: int) -> Batch:
        """Images (B, 3, H, W), labels (B,) int64, rows of `extra`, images as of `also`; this process's share."""
        rows = self.rows(step)
        if len(rows) >= self.num_processes:
            rows = rows[self.rank :: self.num_processes]
        epoch = step // self.steps_per_epoch
        draw = epoch if self.num_views is None else epoch % self.num_views
        wanted = (self.preprocessing, *self.also)
        framed = [self._pixels(int(row), draw, dict.fromkeys(one.geometry for one in wanted)) for row in rows]
        images, *others = (
            one.normalize(torch.stack([torch.from_numpy(pixels[one.geometry]) for pixels in framed])) for one in wanted
        )
        labels = torch.from_numpy(self.split.labels[rows])
        return (images, labels, *(values[rows] for values in self._extra(draw)), *others)

    def _extra(self, draw: int) -> Sequence[torch.Tensor]:
        """The tensors of `extra` that belong to a view."""
        if self.num_views is None:
            return self.extra
        count = len(self.extra) // self.num_views
        return self.extra[draw * count : (draw + 1) * count]

    def _pixels(self, row: int, draw: int, geometries: Iterable[Geometry]) -> dict[Geometry, np.ndarray]:
        """One view of an image in several geometries: the same crop of it, mirrored or not."""
        if self.view is None:
            decoded = self.split.load_decoded(row)
            return {geometry: geometry.apply(decoded).copy() for geometry in geometries}
        image = self.split.load_image(row)
        return {
            geometry: self.view.apply(image, geometry, view_generator(seed=self.seed, draw=draw, row=row)).copy()
            for geometry in geometries
        }


def _draw(rows: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """`size` of `rows`, each once as long as there are as many."""
    return generator.choice(rows, size, replace=len(rows) < size)


def read_ahead(
    batches: Batches, first: int, last: int, *, num_workers: int | None = None, pin: bool = False
) -> Generator[Batch, None, None]:
    """The batches of steps `first` to `last` - 1 in order, made in threads while the caller works on the one before.

    Args:
        num_workers: threads, each with a batch of its own; None means 2. 0 counts as 1.
        pin: put them in memory from which a CUDA device copies without waiting.
    """

    def make(step: int) -> Batch:
        batch = batches.batch(step)
        return tuple(values.pin_memory() for values in batch) if pin else batch

    ahead = _AHEAD if num_workers is None else max(1, num_workers)
    with ThreadPoolExecutor(ahead, thread_name_prefix="richrep-batch") as pool:
        waiting: list[Future[Batch]] = []
        try:
            for step in range(first, min(first + ahead, last)):
                waiting.append(pool.submit(make, step))
            for step in range(first, last):
                if step + ahead < last:
                    waiting.append(pool.submit(make, step + ahead))
                yield waiting.pop(0).result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
