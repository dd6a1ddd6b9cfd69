"""The only extraction loop: blocks of images through all networks that lack them, into their sinks."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch

from richrep.data.preprocessing import Geometry
from richrep.data.split import Split
from richrep.errors import FeatureError
from richrep.features.batches import BatchPlan, OnBadImage, PixelBatch, decoded_batches
from richrep.features.claims import BlockClaims
from richrep.features.forward import NormalizedBatch, check_shape, forward_threads, full_float32, made_ready, outputs
from richrep.features.manifest import Request
from richrep.features.progress import ProgressMeter
from richrep.features.sink import BlockSink
from richrep.features.storage import check_range
from richrep.features.threads import Workers


@dataclass(frozen=True, eq=False)
class Task:
    """A wanted feature matrix and where it goes."""

    request: Request
    sink: BlockSink

    @property
    def network(self) -> tuple[object, ...]:
        """Tasks of equal network share a forward pass."""
        manifest = self.sink.manifest
        return manifest.weights, manifest.structure, self.request.backbone.preprocessing


@dataclass(frozen=True)
class LoopOptions:
    """How fast, never what: see `extract_features`."""

    batch_size: int
    device: torch.device
    num_workers: int
    on_bad_image: OnBadImage


def fill_sinks(
    tasks: Sequence[Task], split: Split, options: LoopOptions, meter: ProgressMeter, *, blocks: Sequence[int]
) -> None:
    """Sees to it that every sink has `blocks`; an image is decoded once for all tasks that lack its block.

    Blocks that other workers hold are left to them, and waited for at the end (claims.py).

    Raises:
        BadImageError: an image cannot be decoded and `on_bad_image` is "stop".
        FeatureError: a network gives another shape than it states, or a value that is not finite or does not fit.
    """
    claims = BlockClaims([task.sink for task in tasks], blocks, meter)
    lacking = [tasks[i] for i in claims.lacking()]
    if not lacking:
        return
    backbones = {task.request.backbone: None for task in lacking}
    with (
        made_ready(backbones, options.device),
        full_float32(),
        forward_threads(backbones, options.device) as workers,
    ):
        for claimed in claims.rounds():
            todo = ((block, [tasks[i] for i in positions]) for block, positions in claimed)
            _fill_blocks(todo, split, options, meter, workers)


def _fill_blocks(
    todo: Iterator[tuple[int, list[Task]]], split: Split, options: LoopOptions, meter: ProgressMeter, workers: Workers
) -> None:
    """Computes blocks for the tasks beside them; the next block is asked for as soon as its decoding can begin."""
    ahead, todo = itertools.tee(todo)
    batches = decoded_batches(
        split,
        _plans(ahead, options.batch_size),
        num_workers=options.num_workers,
        on_bad_image=options.on_bad_image,
        pin_memory=options.device.type == "cuda",
    )
    with contextlib.closing(batches):
        for block, tasks in todo:
            rows = tasks[0].sink.manifest.block_range(block)
            work = _BlockWork(tasks, rows, options.device)
            work.run(itertools.islice(batches, -(-len(rows) // options.batch_size)), workers, meter)
            work.hand_over(block, split)
            meter.add_block()


def _plans(todo: Iterable[tuple[int, list[Task]]], batch_size: int) -> Iterator[BatchPlan]:
    """Batches start again at every block, so that values do not depend on where a killed run was resumed."""
    for block, tasks in todo:
        geometries: dict[Geometry, None] = {t.request.backbone.preprocessing.geometry: None for t in tasks}
        rows = tasks[0].sink.manifest.block_range(block)
        for start in range(0, len(rows), batch_size):
            yield BatchPlan(rows[start : start + batch_size], tuple(geometries))


class _BlockWork:
    """One block in the making: a matrix for each task, filled batch by batch."""

    def __init__(self, tasks: Sequence[Task], rows: range, device: torch.device) -> None:
        self._networks = _by_network(tasks)
        self._rows, self._device = rows, device
        # On the device until the block is full: an accelerator is waited for once a block, not once a batch.
        self._values = {task: torch.zeros(len(rows), task.request.dim, device=device) for task in tasks}  # (R, D) each
        self._skipped: dict[int, str] = {}

    def run(self, batches: Iterator[PixelBatch], workers: Workers, meter: ProgressMeter) -> None:
        """Puts all batches through the networks, one a thread and one waiting."""
        running: deque[tuple[PixelBatch, Future[None]]] = deque()
        for batch in batches:
            running.append((batch, workers.pool.submit(self._forward, batch)))
            if len(running) > workers.count:
                self._finish(*running.popleft(), meter)
        while running:
            self._finish(*running.popleft(), meter)

    def hand_over(self, block: int, split: Split) -> None:
        """Gives every sink its part, if all of it is finite."""
        for task, features in self._values.items():
            features[[row - self._rows.start for row in self._skipped]] = 0
            _check_finite(features, self._rows, task, split)
            check_range(features, self._rows, task.sink.manifest, split)
            task.sink.write_block(block, features.cpu(), self._skipped)

    def _finish(self, batch: PixelBatch, forward: Future[None], meter: ProgressMeter) -> None:
        forward.result()
        self._skipped |= batch.skipped
        meter.add_images(len(batch.rows))

    def _forward(self, batch: PixelBatch) -> None:
        """Runs every network once and puts what it gives into the rows of the batch. Called in a thread of the pool."""
        start, stop = batch.rows.start - self._rows.start, batch.rows.stop - self._rows.start
        with torch.inference_mode(), torch.autocast(self._device.type, enabled=False):
            normalized = NormalizedBatch(batch.pixels, self._device)
            for tasks in self._networks:
                backbone = tasks[0].request.backbone
                images = normalized.images(backbone.preprocessing)
                given = outputs(backbone, [task.request.layer for task in tasks], images)
                for task, output in zip(tasks, given, strict=True):
                    check_shape(output, (len(batch.rows), task.request.dim), title=task.sink.manifest.title)
                    self._values[task][start:stop] = output


def _by_network(tasks: Sequence[Task]) -> list[list[Task]]:
    groups: dict[tuple[object, ...], list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.network, []).append(task)
    return list(groups.values())


def _check_finite(features: torch.Tensor, rows: range, task: Task, split: Split) -> None:
    finite = features.isfinite().all(dim=1)
    if not bool(finite.all()):
        row = rows[int((~finite).nonzero()[0])]
        raise FeatureError(
            f"The {task.request.layer} of {task.request.backbone.name!r} ({task.request.backbone.address}) are not "
            f"finite for image {row} of {split.dataset}/{split.part} ({split.image_name(row)}). "
            "Check the checkpoint and the preprocessing stated for it."
        )
