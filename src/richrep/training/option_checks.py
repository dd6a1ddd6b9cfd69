"""Checks of the options that every method of training has."""

from __future__ import annotations

from typing import Protocol

from richrep.errors import RichrepError, unknown_name_message
from richrep.training.head_init import HEAD_INITS
from richrep.training.schedules import Schedule


class TrainingOptions(Protocol):
    """What the options of fine-tuning and of distillation share."""

    @property
    def epochs(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def accumulate(self) -> int: ...
    @property
    def checkpoint_every(self) -> int | None: ...
    @property
    def clip_norm(self) -> float | None: ...
    @property
    def head_init(self) -> str: ...
    @property
    def schedule(self) -> Schedule: ...


def check_training_options(options: TrainingOptions, *, least_epochs: int = 1) -> None:
    """Raises RichrepError for a number out of range or an unknown head init."""
    check_count("epochs", options.epochs, least=least_epochs)
    for name in ("batch_size", "accumulate", "checkpoint_every"):
        check_count(name, getattr(options, name))
    if options.head_init not in HEAD_INITS:
        raise RichrepError(unknown_name_message("head init", options.head_init, HEAD_INITS))
    if options.clip_norm is not None and not 0 < options.clip_norm < float("inf"):
        raise RichrepError(f"clip_norm must be a number > 0, got {options.clip_norm}. Leave it out for no limit.")
    if options.schedule.warmup_epochs > options.epochs:
        raise RichrepError(
            f"The warm-up lasts {options.schedule.warmup_epochs:g} epochs, training {options.epochs}. Shorten the "
            "warm-up or train longer."
        )


def check_count(name: str, value: int | None, *, least: int = 1) -> None:
    """Raises RichrepError for a number below `least`; None is one that was not given."""
    if value is not None and value < least:
        raise RichrepError(f"{name} must be at least {least}, got {value}.")
