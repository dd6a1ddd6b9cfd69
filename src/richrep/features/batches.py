"""Images of a split as batches of pixels, decoded in threads ahead of the networks, once for all framings."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from richrep.data.decode import Decoded, decoded_at_least
from richrep.data.split import Split
from richrep.data.stores import ArrayStore
from richrep.errors import BadImageError
from richrep.features.profile import ExtractionProfile
from richrep.features.views import Framing

OnBadImage = Literal["stop", "skip"]

_CHUNK = 16  # images of one task: 3 ms of CIFAR, 40 ms of photographs; small beside a batch, large beside a task


@dataclass(frozen=True)
class BatchPlan:
    """Which rows of the split make up a batch, and the framings it is wanted in."""

    rows: range
    framings: tuple[Framing, ...]


@dataclass(frozen=True)
class PixelBatch:
    """Decoded images.

    Attributes:
        rows: rows of the split.
        pixels: for each framing uint8 (B, H, W, 3); zero where the image could not be decoded. On the CPU, but for
            framings that torch makes on another device.
        skipped: row and reason of those.
    """

    rows: range
    pixels: dict[Framing, torch.Tensor]
    skipped: dict[int, str] = field(default_factory=dict)


def decoded_batches(
    split: Split,
    plans: Iterable[BatchPlan],
    *,
    num_workers: int,
    on_bad_image: OnBadImage,
    pin_memory: bool,
    fast_decode: bool = False,
    resize_on: torch.device | None = None,
    profile: ExtractionProfile | None = None,
) -> Generator[PixelBatch]:
    """The planned batches in order, read ahead by at least two batches and two chunks a worker, and no further.

    With no workers the images are decoded in the calling thread, when asked for. Closing it stops the workers.

    Args:
        fast_decode: whether JPEGs are decoded no larger than a framing needs (`decoded_at_least`).
        resize_on: the device on which torch resizes and crops (`Geometry.apply_by_torch`), each image as it is decoded;
            None leaves it to Pillow. Views are always Pillow's.
        profile: hears how long decoding and resizing took.

    Raises:
        BadImageError: the first image, in order, that cannot be decoded, unless `on_bad_image` is "skip".
    """
    decode = _Decoder(split, on_bad_image, fast_decode, resize_on, profile or ExtractionProfile())
    if num_workers == 0:
        for plan in plans:
            batch = decode.empty(plan, pin_memory)
            decode(batch, plan.rows)
            yield batch
        return
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="richrep-decode")
    try:
        yield from _ahead(pool, num_workers, decode, plans, pin_memory)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _ahead(
    pool: ThreadPoolExecutor,
    num_workers: int,
    decode: _Decoder,
    plans: Iterable[BatchPlan],
    pin_memory: bool,
) -> Generator[PixelBatch]:
    queue: deque[tuple[PixelBatch, list[Future[None]]]] = deque()
    for plan in plans:
        batch = decode.empty(plan, pin_memory)
        chunks = [plan.rows[i : i + _CHUNK] for i in range(0, len(plan.rows), _CHUNK)]
        queue.append((batch, [pool.submit(decode, batch, chunk) for chunk in chunks]))
        if len(queue) > 2 and sum(len(decoding) for _, decoding in queue) > 2 * num_workers:
            yield _finished(*queue.popleft())
    while queue:
        yield _finished(*queue.popleft())


def _finished(batch: PixelBatch, decoding: list[Future[None]]) -> PixelBatch:
    for chunk in decoding:
        chunk.result()
    return batch


@dataclass(frozen=True)
class _Decoder:
    """Fills rows of batches. Called by several threads at once."""

    split: Split
    on_bad_image: OnBadImage
    fast: bool
    resize_on: torch.device | None
    profile: ExtractionProfile

    def empty(self, plan: BatchPlan, pin_memory: bool) -> PixelBatch:
        """The batch before anything is decoded."""
        pixels = {}
        for framing in plan.framings:
            device = self.resize_on if self._is_torchs(framing) else None
            where = {"pin_memory": pin_memory} if device is None else {"device": device}
            pixels[framing] = torch.empty(len(plan.rows), *framing.geometry.size_px, 3, dtype=torch.uint8, **where)
        return PixelBatch(plan.rows, pixels)

    def _is_torchs(self, framing: Framing) -> bool:
        return self.resize_on is not None and framing.view is None

    def __call__(self, batch: PixelBatch, rows: range) -> None:
        if self._copy_pixels(batch, rows):
            return
        decode_s, start_s = 0.0, time.perf_counter()
        for row in rows:
            index = row - batch.rows.start
            before_s = time.perf_counter()
            try:
                images = self._load(row, list(batch.pixels))
            except BadImageError as error:
                if self.on_bad_image == "stop":
                    raise
                batch.skipped[row] = str(error)
                for pixels in batch.pixels.values():
                    pixels[index] = 0
                continue
            decode_s += time.perf_counter() - before_s
            for (framing, pixels), image in zip(batch.pixels.items(), images, strict=True):
                if self._is_torchs(framing):
                    pixels[index] = framing.geometry.apply_by_torch(_as_tensor(image).to(pixels.device))
                else:
                    pixels.numpy()[index] = framing.apply(image, row)
        self.profile.add("decode", decode_s)
        self.profile.add("resize", time.perf_counter() - start_s - decode_s)

    def _copy_pixels(self, batch: PixelBatch, rows: range) -> bool:
        """Copies images that lie in memory in the size that is wanted, all at once; False where that cannot be.

        One at a time, through Pillow, they cost a tenth of the forward pass of a CIFAR network.
        """
        store = self.split.images
        if not isinstance(store, ArrayStore) or not all(framing.keeps(*store.size_px) for framing in batch.pixels):
            return False
        start_s = time.perf_counter()
        loaded = torch.from_numpy(store.load_pixels(self.split.positions[rows.start : rows.stop]))
        first = rows.start - batch.rows.start
        for pixels in batch.pixels.values():
            pixels[first : first + len(rows)] = loaded
        self.profile.add("decode", time.perf_counter() - start_s)
        return True

    def _load(self, row: int, framings: list[Framing]) -> list[Decoded]:
        """The image for each framing: one object, or, decoded fast, one for each size that is needed.

        What a framing gets must not depend on the others: they belong to networks that are in this run by chance.
        """
        if not self.fast:
            return [self.split.load_decoded(row)] * len(framings)
        images: dict[tuple[int, int] | None, Decoded] = {}
        for size_px in {framing.needed_px for framing in framings}:
            with contextlib.nullcontext() if size_px is None else decoded_at_least(size_px):
                images[size_px] = self.split.load_decoded(row)
        return [images[framing.needed_px] for framing in framings]


def _as_tensor(decoded: Decoded) -> torch.Tensor:
    """uint8 (H, W, 3); a copy of what Pillow holds, which is read-only."""
    return torch.from_numpy(decoded if isinstance(decoded, np.ndarray) else np.array(decoded))
