"""Plain values around the training loop: how to step, what a callback hears of every step, what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from richrep.features.manifest import Precision
from richrep.training.early_stop import EarlyStop


@dataclass(frozen=True)
class TrainingProgress:
    """What a callback hears after every step.

    Attributes:
        step: steps taken, of num_steps; loss: of this step, NaN on an accelerator where nobody looked.
        lr: the largest of this step. scores: of the last evaluation; is_new: they are of this step.
        seconds_left: None until there is something to go by.
    """

    step: int
    num_steps: int
    loss: float
    lr: float
    scores: dict[str, float]
    is_new: bool
    images_per_s: float
    seconds_left: float | None


@dataclass(frozen=True)
class LoopOptions:
    """How to step, beside objective, batches, optimizer and learning rate.

    Attributes:
        schedule_steps: length of the learning rate's schedule, where training ends before it does; None: num_steps.
        accumulate: parts in which a batch goes through the network; each part normalises by its own statistics.
        clip_norm: largest norm of the gradient; None for no limit.
        evaluate_every: steps between evaluations; None means once an epoch; the last step is always evaluated.
        checkpoint_every: steps between two states on disk, beside those at the ends of epochs.
        num_workers: threads that make batches, any number of which gives the same ones; None: 2 on the CPU, whose cores
            the network takes, and beside an accelerator one a core, at most 16.
    """

    num_steps: int
    schedule_steps: int | None = None
    seed: int = 0
    precision: Precision = "fp32"
    device: str | None = None
    accumulate: int = 1
    clip_norm: float | None = None
    evaluate_every: int | None = None
    early_stop: EarlyStop | None = None
    checkpoint_every: int | None = None
    num_workers: int | None = None


@dataclass
class TrainingResult:
    """What came of it.

    Attributes:
        steps: taken; fewer than asked for after an early stop.
        best_step: at which the kept weights were; None without early stopping.
        losses: mean of every epoch. evaluations: {"step": …, metric: …} in order.
        parts: a batch went through the network in so many parts at the end.
    """

    steps: int
    best_step: int | None
    losses: list[float] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    parts: int = 1
    elapsed_s: float = 0.0
