"""Curves of a training for TensorBoard, or another tracker that accelerate offers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from richrep.errors import RichrepError, unknown_name_message
from richrep.training.loop_values import TrainingProgress


def check_tracker(name: str | None) -> None:
    """Raises RichrepError for a tracker that accelerate does not offer, or that is not installed; None is none."""
    if name is None:
        return
    from accelerate.tracking import get_available_trackers
    from accelerate.utils import LoggerType

    known = [str(logger) for logger in LoggerType if str(logger) != "all"]
    if name not in known:
        raise RichrepError(unknown_name_message("tracker", name, known))
    if name not in map(str, get_available_trackers()):
        package = "'richrep[tensorboard]'" if name == "tensorboard" else name
        raise RichrepError(f"Tracker {name!r} is not installed here. Install it: pip install {package}")


@contextmanager
def tracking(name: str, folder: Path, training: str) -> Iterator[Callable[[TrainingProgress], None]]:
    """A callback of the loop that logs train/loss, train/lr and, when there are new ones, the scores as val/NAME.

    Args:
        name: of a tracker that `check_tracker` accepts.
        folder: TensorBoard's files go to a folder below it, called `training`. Other trackers log to their own places,
            to a project "richrep".
    """
    accelerator: Any = None

    def log(progress: TrainingProgress) -> None:
        nonlocal accelerator
        if accelerator is None:  # not before the loop has chosen a device for the process
            accelerator = _start(name, folder, training)
        accelerator.log(_values(progress), step=progress.step)

    try:
        yield log
    finally:
        for tracker in accelerator.trackers if accelerator is not None else ():
            tracker.finish()


def _start(name: str, folder: Path, training: str) -> Any:
    from accelerate import Accelerator

    accelerator = Accelerator(log_with=name, project_dir=str(folder))
    if name == "tensorboard":
        accelerator.init_trackers(training)
    else:
        accelerator.init_trackers("richrep", config={"run": folder.parent.name, "training": training})
    return accelerator


def _values(progress: TrainingProgress) -> dict[str, float]:
    values = {"train/lr": progress.lr}
    if not math.isnan(progress.loss):
        values["train/loss"] = progress.loss
    if progress.is_new:
        values |= {f"val/{name}": value for name, value in progress.scores.items()}
    return values
