"""Learning rates over time: constant, in steps, half a cosine, a straight line; each with or without a warm-up."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch

from richrep.errors import RichrepError, unknown_name_message

ScheduleKind: TypeAlias = Literal["constant", "step", "cosine", "linear"]


@dataclass(frozen=True)
class Schedule:
    """How a learning rate changes during training; a value to print, compare and store.

    After the warm-up, at fraction t in [0, 1) of what remains, a base learning rate b becomes: "constant": b; "cosine":
    final_lr + (b - final_lr) (1 + cos(pi t)) / 2; "linear": b + (final_lr - b) t. "step": b gamma^(milestones passed),
    counted from the start of training, warm-up included.

    Attributes:
        kind: "constant", "step", "cosine" or "linear".
        warmup_epochs: length of the warm-up, fractions allowed; or `warmup_steps`, not both. 0: none.
        warmup_from_zero: the warm-up's values are evenly spaced from 0 to the base, both included, so that the first
            step changes nothing and the base comes twice (t-ReX); otherwise from base/n to the base (schedule-free).
        milestones: for "step": the epochs, counted from 0, from which on the rate is multiplied by `gamma` once more.
        final_lr: an absolute learning rate that "cosine" and "linear" run towards and would reach one step after the
            last; base rates below it stay constant.
        per_epoch: the rate changes between epochs only, as in papers whose scheduler is stepped once an epoch.

    Raises:
        RichrepError: an unknown kind, a negative number, or fields that contradict each other.
    """

    kind: ScheduleKind = "constant"
    warmup_epochs: float = 0.0
    warmup_steps: int = 0
    warmup_from_zero: bool = False
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    final_lr: float = 0.0
    per_epoch: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(ScheduleKind):
            raise RichrepError(unknown_name_message("schedule", self.kind, get_args(ScheduleKind)))
        for name in ("warmup_epochs", "warmup_steps", "gamma", "final_lr"):
            if not 0 <= getattr(self, name) < math.inf:
                raise RichrepError(f"{name} must be a number >= 0, got {getattr(self, name)}.")
        if self.warmup_epochs and self.warmup_steps:
            raise RichrepError(
                f"warmup_epochs {self.warmup_epochs:g} and warmup_steps {self.warmup_steps} exclude each other."
            )
        if self.per_epoch and (self.warmup_steps or self.warmup_epochs % 1):
            raise RichrepError("A schedule per epoch warms up for whole epochs. Give warmup_epochs as a whole number.")
        if (self.kind == "step") != bool(self.milestones):
            raise RichrepError(
                f"milestones belong to kind 'step' and only to it, got {self.milestones} for {self.kind!r}."
            )
        if not all(a < b for a, b in zip((0.0, *self.milestones), self.milestones, strict=False)):
            raise RichrepError(f"milestones must be epochs > 0 in increasing order, got {self.milestones}.")

    def lr(self, step: int, *, base_lr: float, steps_per_epoch: int, num_steps: int) -> float:
        """Learning rate of `step`, counted from 0, in a training of `num_steps`; also right after the last step.

        Raises:
            RichrepError: the warm-up is longer than the training.
        """
        length = steps_per_epoch if self.per_epoch else 1
        i, num = step // length, math.ceil(num_steps / length)  # in epochs, or in steps
        warmup = self.warmup_steps or round(self.warmup_epochs * steps_per_epoch / length)
        if warmup > num:
            raise RichrepError(
                f"The warm-up lasts {warmup} {'epochs' if self.per_epoch else 'steps'}, training {num}. Shorten the "
                "warm-up or train longer."
            )
        if i < warmup:
            share = i / max(1, warmup - 1) if self.warmup_from_zero else (i + 1) / warmup
            return base_lr * share
        if self.kind == "step":
            return base_lr * self.gamma ** bisect_right(self.milestones, i * length / steps_per_epoch)
        return self._after_warmup(base_lr, min(1.0, (i - warmup) / max(1, num - warmup)))

    def _after_warmup(self, base_lr: float, t: float) -> float:
        final = min(self.final_lr, base_lr)
        if self.kind == "cosine":
            return final + 0.5 * (base_lr - final) * (1 + math.cos(math.pi * t))
        if self.kind == "linear":
            return base_lr + (final - base_lr) * t
        return base_lr


def set_learning_rates(
    optimizer: torch.optim.Optimizer, schedule: Schedule, step: int, *, steps_per_epoch: int, num_steps: int
) -> None:
    """Writes the learning rate of `step` into every group of `optimizer`, each from its own `initial_lr`."""
    for group in optimizer.param_groups:
        group["lr"] = schedule.lr(
            step, base_lr=group["initial_lr"], steps_per_epoch=steps_per_epoch, num_steps=num_steps
        )
