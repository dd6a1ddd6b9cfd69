"""The only extraction loop: blocks of images through all networks that lack them, into their sinks."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

from richrep.backbones.backbone import Backbone
from richrep.data.preprocessing import Preprocessing, Resizing
from richrep.data.split import Split
from richrep.errors import FeatureError
from richrep.features.batches import BatchPlan, OnBadImage, PixelBatch, decoded_batches
from richrep.features.claims import BlockClaims
from richrep.features.engines.choose import Runner, runners
from richrep.features.engines.engine import Work, blamed_on
from richrep.features.forward import NormalizedBatch, check_shape, forward_threads, full_float32, inference
from richrep.features.manifest import Precision, Request
from richrep.features.profile import ExtractionProfile
from richrep.features.progress import ProgressMeter
from richrep.features.sink import BlockSink
from richrep.features.storage import check_range
from richrep.features.threads import Workers
from richrep.features.views import Framing, NumberedView

Network: TypeAlias = tuple[str, str, Preprocessing]


@dataclass(frozen=True, eq=False)
class Task:
    """A wanted feature matrix and where it goes."""

    request: Request
    sink: BlockSink

    @property
    def network(self) -> Network:
        """Tasks of equal network share an engine and, where they are of one view, a forward pass."""
        manifest = self.sink.manifest
        return manifest.weights, manifest.structure, self.request.backbone.preprocessing

    @property
    def view_number(self) -> int:
        """-1 for the deterministic view."""
        return -1 if self.request.view is None else self.request.view.number

    @property
    def framing(self) -> Framing:
        """What the network is shown."""
        return Framing(self.request.backbone.preprocessing.geometry, self.request.view)


@dataclass(frozen=True)
class LoopOptions:
    """See `extract_features`. `precision`, `fast_decode` and `resizing` decide values, the others only speed."""

    batch_size: int
    device: torch.device
    num_workers: int
    on_bad_image: OnBadImage
    engine: str = "torch"
    precision: Precision = "fp32"
    fast_decode: bool = False
    resizing: Resizing = "pillow"
    profile: ExtractionProfile | None = None


def fill_sinks(
    tasks: Sequence[Task], split: Split, options: LoopOptions, meter: ProgressMeter, *, blocks: Sequence[int]
) -> dict[Task, str]:
    """Sees to it that every sink has `blocks`; an image is decoded once for all tasks that lack its block.

    Blocks that other workers hold are left to them, and waited for at the end (claims.py).

    Returns:
        The engine that was used for each task that lacked something.

    Raises:
        BadImageError: an image cannot be decoded and `on_bad_image` is "stop".
        EngineError: the engine cannot run a network, or not closely enough.
        FeatureError: a network gives another shape than it states, or a value that is not finite or does not fit.
        Both say which (`error.backbone`); finished blocks of the others are kept.
    """
    claims = BlockClaims([task.sink for task in tasks], blocks, meter)
    lacking = [tasks[i] for i in claims.lacking()]
    if not lacking:
        return {}
    backbones = dict.fromkeys(task.request.backbone for task in lacking)
    profile = options.profile or ExtractionProfile()
    with full_float32(), forward_threads(backbones, options.device) as workers, contextlib.ExitStack() as engines:
        first_images = _FirstImages(split, lacking, claims.first_missing(), options)
        with profile.step("prepare"):
            works = _works(lacking, options, workers)
            ready = engines.enter_context(runners(works, options.engine, first_images))
        meter.start()  # here, so that the rate does not count what the engine takes to get ready
        loop = _Loop(ready, options, profile)
        for claimed in claims.rounds():
            taken = ((block, [tasks[i] for i in positions]) for block, positions in claimed)
            ahead, todo = itertools.tee(taken)  # the next block is asked for as soon as its decoding can begin
            batches = _decoded(split, _plans(ahead, options.batch_size), options, profile)
            with contextlib.closing(batches), profile.network_threads(workers.count):
                loop.run(todo, batches, split, workers, meter)
        return {task: ready[task.network].engine for task in lacking}


def _decoded(
    split: Split, plans: Iterator[BatchPlan], options: LoopOptions, profile: ExtractionProfile
) -> Generator[PixelBatch]:
    return decoded_batches(
        split,
        plans,
        num_workers=options.num_workers,
        on_bad_image=options.on_bad_image,
        pin_memory=options.device.type == "cuda",
        fast_decode=options.fast_decode,
        resize_on=None if options.resizing == "pillow" else options.device,
        profile=profile,
    )


def _works(tasks: Sequence[Task], options: LoopOptions, workers: Workers) -> dict[Network, Work]:
    """One for each network, with all layers that any block lacks."""
    manifest = tasks[0].sink.manifest
    return {
        network: Work(
            backbone=group[0].request.backbone,
            layers=tuple(dict.fromkeys(task.request.layer for task in group)),
            precision=options.precision,
            batch_size=min(options.batch_size, manifest.block_rows, manifest.rows),
            device=options.device,
            num_batches=workers.count,
            threads_per_batch=torch.get_num_threads(),
        )
        for network, group in _by_network(tasks).items()
    }


class _FirstImages:
    """The first batch of a block, as every geometry of the tasks frames it, decoded when first asked for."""

    def __init__(self, split: Split, tasks: Sequence[Task], block: int, options: LoopOptions) -> None:
        self._split, self._tasks, self._block = split, tasks, block
        self._options = replace(options, num_workers=0, on_bad_image="skip")  # bad images are the loop's business
        self._batch: NormalizedBatch | None = None

    def __call__(self, backbone: Backbone) -> torch.Tensor:
        if self._batch is None:
            rows = self._tasks[0].sink.manifest.block_range(self._block)[: self._options.batch_size]
            framings = dict.fromkeys(Framing(task.framing.geometry) for task in self._tasks)
            plan = BatchPlan(rows, tuple(framings))
            (pixels,) = _decoded(self._split, iter([plan]), self._options, ExtractionProfile())
            self._batch = NormalizedBatch(pixels.pixels, self._options.device)
        return self._batch.images(backbone.preprocessing)


def _plans(todo: Iterable[tuple[int, list[Task]]], batch_size: int) -> Iterator[BatchPlan]:
    """Batches start again at every block, so that values do not depend on where a killed run was resumed."""
    for block, tasks in todo:
        framings = dict.fromkeys(task.framing for task in tasks)
        rows = tasks[0].sink.manifest.block_range(block)
        for start in range(0, len(rows), batch_size):
            yield BatchPlan(rows[start : start + batch_size], tuple(framings))


class _BlockWork:
    """One block in the making: a matrix for each task, filled batch by batch."""

    def __init__(self, tasks: Sequence[Task], rows: range, device: torch.device) -> None:
        self.passes: dict[tuple[Network, NumberedView | None], list[Task]] = {}
        for task in sorted(tasks, key=lambda task: task.view_number):  # a batch keeps the images of one view
            self.passes.setdefault((task.network, task.request.view), []).append(task)
        self._rows, self._missing = rows, len(rows)
        # On the device until the block is full: an accelerator is waited for once a block, not once a batch.
        self._values = {task: torch.zeros(len(rows), task.request.dim, device=device) for task in tasks}  # (R, D) each
        self._skipped: dict[int, str] = {}

    def keep(self, task: Task, rows: range, output: torch.Tensor) -> None:
        """Puts what a network gave into the rows of the split it belongs to."""
        check_shape(output, (len(rows), task.request.dim), title=task.sink.manifest.title)
        self._values[task][rows.start - self._rows.start : rows.stop - self._rows.start] = output

    def finished(self, batch: PixelBatch) -> bool:
        """Notes a batch that went well; whether the block is whole now, which one with a failed batch never is."""
        self._skipped |= batch.skipped
        self._missing -= len(batch.rows)
        return self._missing == 0

    def hand_over(self, block: int, split: Split, ready: Mapping[Network, Runner]) -> None:
        """Gives every sink its part, if all of it is finite, and the name of the engine in `ready` that computed it.

        Raises FeatureError for the first part that is not, when the sinks of the others have theirs.
        """
        failed: FeatureError | None = None
        for task, features in self._values.items():
            features[[row - self._rows.start for row in self._skipped]] = 0
            try:
                with blamed_on(task.request.backbone):
                    _check_finite(features, self._rows, task, split)
                    check_range(features, self._rows, task.sink.manifest, split)
            except FeatureError as error:
                failed = failed or error
                continue
            task.sink.write_block(block, features.cpu(), self._skipped, engine=ready[task.network].engine)
        if failed is not None:
            raise failed


class _Loop:
    """Puts batches through the networks, one a thread and one waiting; blocks are written meanwhile."""

    def __init__(self, ready: Mapping[Network, Runner], options: LoopOptions, profile: ExtractionProfile) -> None:
        self._ready, self._profile = ready, profile
        self._device, self._batch_size = options.device, options.batch_size
        self._synchronize = options.profile is not None
        is_cuda = options.device.type == "cuda"
        self._upload = torch.cuda.Stream(options.device) if is_cuda else None  # type: ignore[no-untyped-call]

    def run(
        self,
        todo: Iterable[tuple[int, list[Task]]],
        batches: Iterator[PixelBatch],
        split: Split,
        workers: Workers,
        meter: ProgressMeter,
    ) -> None:
        running: deque[_Running] = deque()
        try:
            for block, tasks in todo:
                rows = tasks[0].sink.manifest.block_range(block)
                work = _BlockWork(tasks, rows, self._device)
                for batch in itertools.islice(batches, -(-len(rows) // self._batch_size)):
                    uploaded = NormalizedBatch(batch.pixels, self._device, self._upload)
                    forward = workers.pool.submit(self._forward, work, batch.rows, uploaded)
                    running.append(_Running(block, work, batch, forward))
                    if len(running) > workers.count:
                        running.popleft().finish(split, self._ready, meter)
        except Exception:
            while running:
                with contextlib.suppress(Exception):  # blocks that are complete in spite of the error are kept
                    running.popleft().finish(split, self._ready, meter)
            raise
        while running:
            running.popleft().finish(split, self._ready, meter)

    def _forward(self, work: _BlockWork, rows: range, batch: NormalizedBatch) -> None:
        """Runs every network once a view. Called in a thread of the pool."""
        with inference(self._device):
            for (network, view), tasks in work.passes.items():
                with self._profile.step("normalize"):
                    images = batch.images(tasks[0].request.backbone.preprocessing, view)
                with self._profile.step("forward"):
                    given = self._ready[network].forward(images)
                    if self._synchronize and self._upload is not None:
                        torch.cuda.synchronize(self._device)
                for task in tasks:
                    with blamed_on(task.request.backbone):
                        work.keep(task, rows, given[task.request.layer])


@dataclass(frozen=True)
class _Running:
    """A batch that a thread is computing, or about to."""

    block: int
    work: _BlockWork
    batch: PixelBatch
    forward: Future[None]

    def finish(self, split: Split, ready: Mapping[Network, Runner], meter: ProgressMeter) -> None:
        """Waits for it; with the last batch of a block the block is handed over."""
        self.forward.result()
        meter.add_images(len(self.batch.rows))
        if self.work.finished(self.batch):
            self.work.hand_over(self.block, split, ready)
            meter.add_block()


def _by_network(tasks: Sequence[Task]) -> dict[Network, list[Task]]:
    groups: dict[Network, list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.network, []).append(task)
    return groups


def _check_finite(features: torch.Tensor, rows: range, task: Task, split: Split) -> None:
    finite = features.isfinite().all(dim=1)
    if not bool(finite.all()):
        row = rows[int((~finite).nonzero()[0])]
        raise FeatureError(
            f"The {task.request.layer} of {task.request.backbone.name!r} ({task.request.backbone.address}) are not "
            f"finite for image {row} of {split.dataset}/{split.part} ({split.image_name(row)}). "
            "Check the checkpoint and the preprocessing stated for it."
        )
