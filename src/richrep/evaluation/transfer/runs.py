"""The runs of the training methods: where they lie, what they are called, what decides them, whether they are done."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from richrep.backbones.backbone import Backbone
from richrep.backbones.run_model import read_run_model
from richrep.data.split import carve_val
from richrep.errors import DatasetError
from richrep.evaluation.record import Record
from richrep.evaluation.record_store import read_record
from richrep.evaluation.task import Task
from richrep.evaluation.transfer.cells import CellProgress, OnProgress
from richrep.evaluation.transfer.protocol import FinetuneProtocol
from richrep.features.manifest import Precision
from richrep.training.loop_values import TrainingProgress
from richrep.training.processes import rank_and_count
from richrep.training.run_folder import RunFolder
from richrep.training.trackers import tracking


@dataclass(frozen=True)
class Where:
    """Where and how trainings run, beside what decides their result.

    Attributes:
        out: folder of records and runs.
        name: of the run; None makes one of method, backbones, data set and seed. Of several runs, a number follows.
        restart: begin runs anew.
        device: None means CUDA when there is one. num_workers: threads that make batches; see `LoopOptions`.
        on_progress: called after every step.
        tracker: draws the curves of every training, e.g. "tensorboard", below the run's folder; None for none.
    """

    out: Path = Path("runs")
    name: str | None = None
    restart: bool = False
    device: str | None = None
    num_workers: int | None = None
    precision: Precision = "fp32"
    on_progress: OnProgress | None = None
    tracker: str | None = None


@contextmanager
def step_reports(
    where: Where, folder: RunFolder, state: str, *, cell: str, number: int, total: int
) -> Iterator[Callable[[TrainingProgress], None]]:
    """A callback of the loop for one training of a run: `where.on_progress` hears of its steps, its tracker draws them.

    Args:
        state: name of the training's state file, and of its curves. cell, number, total: as in `CellProgress`.
    """
    with ExitStack() as stack:
        track = where.tracker and stack.enter_context(tracking(where.tracker, folder.curves, state))

        def report(progress: TrainingProgress) -> None:
            if track:
                track(progress)
            if where.on_progress is not None:
                where.on_progress(CellProgress(folder.name, cell, number, total, progress))

        yield report


def method_of(members: Sequence[Backbone]) -> str:
    """What the training of these is called."""
    return "init-cat" if len(members) > 1 else "finetune"


def select_rows(task: Task, *, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (train, val) of the trainval images.

    Raises:
        DatasetError: nothing can go to val.
    """
    if task.num_stored_train is not None:
        rows = np.arange(len(task.trainval))
        return rows[: task.num_stored_train], rows[task.num_stored_train :]
    found = carve_val(task.trainval.labels, fraction=fraction, seed=seed)
    if len(found[1]) == 0:
        raise DatasetError(
            f"{task.dataset.name}: no class has two training images, so none can go to val and nothing can be tuned. "
            "Use a larger --train-size."
        )
    return found


def run_name(
    method: str,
    members: Sequence[Backbone],
    task: Task,
    protocol: str,
    seed: int,
    given: str | None,
    number: int | None,
) -> str:
    """The given name, or one of what the run is: "finetune-resnet20-12fca82f-cifar10-500-default-s0"."""
    if given is not None:
        return given if number is None else f"{given}-{number}"
    parts = [f"{member.architecture}-{(member.sha256 or member.fingerprint)[:6]}" for member in members[:2]]
    digest = hashlib.sha256(" ".join(member.sha256 or member.fingerprint for member in members).encode()).hexdigest()
    more = [f"{len(members)}members-{digest[:6]}"] if len(members) > 2 else []
    words = [method, *parts, *more, task.dataset.name, str(len(task.trainval)), protocol, f"s{seed}"]
    name = "-".join("".join(c if c.isalnum() or c in "._-" else "_" for c in word) for word in words)
    return name if len(name) <= 150 else f"{name[:140]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def finetune_run_options(
    members: Sequence[Backbone], task: Task, protocol: FinetuneProtocol, *, seed: int, precision: Precision
) -> dict[str, Any]:
    """All that the result of a fine-tuning run depends on."""
    return run_options(method_of(members), members, task, seed, precision) | {"protocol": protocol.deciding()}


def run_options(
    method: str, members: Sequence[Backbone], task: Task, seed: int, precision: Precision
) -> dict[str, Any]:
    """What decides the result of a run beside its protocol, as plain data."""
    return {
        "method": method,
        "backbones": [f"{member.address} ({(member.sha256 or member.fingerprint)[:16]})" for member in members],
        "preprocessing": [member.preprocessing.describe() for member in members],
        "dataset": task.dataset.address,
        "train_images": len(task.trainval),
        "train_fingerprint": task.trainval.fingerprint[:32],
        "test_fingerprint": task.test.fingerprint[:32],
        "seed": seed,
        "precision": precision,
        "processes": rank_and_count()[1],  # norms, dropout and mixing see one process's share of a batch
    }


def finished_record(folder: RunFolder, out: Path) -> Record | None:
    """The record of a finished run; None when the run is not finished, or its record is gone: it is made again."""
    if not folder.model.exists():
        return None
    wanted = read_run_model(folder.model).records
    return read_record(out, wanted[0]) if wanted else None
