"""Draws: the few training images that a small-data protocol uses of those there are, drawn at random, perhaps again
and again. A protocol with a method `draws` is measured once on each of them (evaluation/repeats.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True, eq=False)
class Pool:
    """The training images there are, as rows of trainval.

    Attributes:
        labels: (N,) of all of trainval.
        class_names: K names; `labels` index them.
        train_rows, val_rows: disjoint; together all N.
        val_is_stored: whether the data set has this val; else it is a part of train.
    """

    labels: np.ndarray
    class_names: tuple[str, ...]
    train_rows: np.ndarray
    val_rows: np.ndarray
    val_is_stored: bool

    @property
    def whole_train(self) -> np.ndarray:
        """All rows of train, those that were set apart as val among them."""
        return self.train_rows if self.val_is_stored else np.union1d(self.train_rows, self.val_rows)


@dataclass(frozen=True, eq=False)
class Draw:
    """The rows of trainval that one repeat uses; the rest does not exist for it.

    Attributes:
        seed: what they were drawn from.
        train_rows, val_rows: as `select` of the protocol takes them.
        fit_rows: those of the refit.
        num_val: images that only select.
        val: how val came about, for the record.
    """

    seed: tuple[int, ...]
    train_rows: np.ndarray
    val_rows: np.ndarray
    fit_rows: np.ndarray
    num_val: int
    val: str


@runtime_checkable
class DrawingProtocol(Protocol):
    """What a ProbeProtocol of few images can do besides."""

    def draws(self, pool: Pool, *, seed: int) -> tuple[Draw, ...]:
        """The draws to measure, at least one; the same pool and seed give the same rows.

        Raises:
            DatasetError: the pool holds too few images.
        """
        ...
