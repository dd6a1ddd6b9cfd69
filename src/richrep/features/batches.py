"""Images of a split as batches of pixels, decoded in threads ahead of the networks, once for all geometries."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from richrep.data.preprocessing import Geometry
from richrep.data.split import Split
from richrep.errors import BadImageError

OnBadImage = Literal["stop", "skip"]

_CHUNK = 16  # images of one task: 3 ms of CIFAR, 40 ms of photographs; small beside a batch, large beside a task


@dataclass(frozen=True)
class BatchPlan:
    """Which rows of the split make up a batch, and the geometries it is wanted in."""

    rows: range
    geometries: tuple[Geometry, ...]


@dataclass(frozen=True)
class PixelBatch:
    """Decoded images.

    Attributes:
        rows: rows of the split.
        pixels: for each geometry uint8 (B, H, W, 3); zero where the image could not be decoded.
        skipped: row and reason of those.
    """

    rows: range
    pixels: dict[Geometry, torch.Tensor]
    skipped: dict[int, str] = field(default_factory=dict)


def decoded_batches(
    split: Split, plans: Iterable[BatchPlan], *, num_workers: int, on_bad_image: OnBadImage, pin_memory: bool
) -> Generator[PixelBatch]:
    """The planned batches in order, read ahead by at least two batches and two chunks a worker, and no further.

    With no workers the images are decoded in the calling thread, when asked for. Closing it stops the workers.

    Raises:
        BadImageError: the first image, in order, that cannot be decoded, unless `on_bad_image` is "skip".
    """
    if num_workers == 0:
        for plan in plans:
            batch = _empty_batch(plan, pin_memory)
            _decode(split, batch, plan.rows, on_bad_image)
            yield batch
        return
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="richrep-decode")
    try:
        yield from _ahead(pool, num_workers, split, plans, on_bad_image, pin_memory)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _ahead(
    pool: ThreadPoolExecutor,
    num_workers: int,
    split: Split,
    plans: Iterable[BatchPlan],
    on_bad_image: OnBadImage,
    pin_memory: bool,
) -> Generator[PixelBatch]:
    queue: deque[tuple[PixelBatch, list[Future[None]]]] = deque()
    for plan in plans:
        batch = _empty_batch(plan, pin_memory)
        chunks = [plan.rows[i : i + _CHUNK] for i in range(0, len(plan.rows), _CHUNK)]
        queue.append((batch, [pool.submit(_decode, split, batch, chunk, on_bad_image) for chunk in chunks]))
        if len(queue) > 2 and sum(len(decoding) for _, decoding in queue) > 2 * num_workers:
            yield _finished(*queue.popleft())
    while queue:
        yield _finished(*queue.popleft())


def _finished(batch: PixelBatch, decoding: list[Future[None]]) -> PixelBatch:
    for chunk in decoding:
        chunk.result()
    return batch


def _empty_batch(plan: BatchPlan, pin_memory: bool) -> PixelBatch:
    size = len(plan.rows)
    return PixelBatch(
        plan.rows,
        {g: torch.empty(size, *g.size_px, 3, dtype=torch.uint8, pin_memory=pin_memory) for g in plan.geometries},
    )


def _decode(split: Split, batch: PixelBatch, rows: range, on_bad_image: OnBadImage) -> None:
    """Fills `rows` of the batch."""
    arrays: dict[Geometry, np.ndarray] = {geometry: pixels.numpy() for geometry, pixels in batch.pixels.items()}
    for row in rows:
        index = row - batch.rows.start
        try:
            image = split.load_image(row)
        except BadImageError as error:
            if on_bad_image == "stop":
                raise
            batch.skipped[row] = str(error)
            for array in arrays.values():
                array[index] = 0
            continue
        for geometry, array in arrays.items():
            array[index] = geometry.apply(image)
