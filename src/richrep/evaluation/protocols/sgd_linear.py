"""A linear head by mini-batch SGD, with the learning rates and weight decays of a grid tried, all trained at once.

The papers' linear probes are instances of it, one file each: rrl_linear.py, sparse_linear.py, swav_linear.py.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
import torch

from richrep.data.augment import RandomView
from richrep.data.registry import find_entry
from richrep.errors import RichrepError
from richrep.evaluation.protocols.protocol import Choice, Contest, spans
from richrep.evaluation.selection import check_rows
from richrep.features.feature_set import FeatureSet
from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.features.rows import Features, as_rows
from richrep.heads.lr_factors import cosine, step
from richrep.heads.sgd import SgdHead, diverged_error
from richrep.heads.sgd_grid import SgdCell

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SgdLinearProtocol:
    """A linear layer by SGD: choose learning rate and weight decay on val, then train on all training images.

    Attributes:
        lrs, weight_decays: every pair is tried; the whole grid trains at once.
        weight_decays_of: (data set, weight decays) in place of `weight_decays`, by the registered name or the folder's.
        epochs, batch_size, momentum, nesterov, dampening, decay_bias, batch_norm, decay_batch_norm, init: as of
            `SgdRecipe`.
        milestones: epochs, counted from 0, from which on the learning rate is `gamma` times what it was.
        cosine: it falls along half a cosine instead, epoch by epoch.
        epoch: "last" scores what the last epoch leaves; "best" scores every epoch and trains as many as were best.
        views, view: how many random views of every training image the epochs cycle through, and how they are drawn; 1
            is the image as it is. They say what is extracted; what is read is what the features hold.
        normalizations: tried with every pair, before batch normalisation; fitted on the training images only.
        val_fraction: of every class of train, when the data set stores no val.
        seed: of the first weights and of the batches; a probe puts its own here.
    """

    name: str = "sgd-linear"
    lrs: tuple[float, ...] = (0.01,)
    weight_decays: tuple[float, ...] = (0.0,)
    weight_decays_of: tuple[tuple[str, tuple[float, ...]], ...] = ()
    epochs: int = 100
    batch_size: int = 256
    momentum: float = 0.9
    nesterov: bool = False
    dampening: float = 0.0
    decay_bias: bool = True
    batch_norm: bool = False
    decay_batch_norm: bool = True
    init: str = "default"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    cosine: bool = False
    epoch: str = "last"
    views: int = 1
    view: RandomView | None = None
    normalizations: tuple[str, ...] = ("none",)
    val_fraction: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epoch not in ("last", "best"):
            raise ValueError(f"epoch must be 'last' or 'best', got {self.epoch!r}.")

    def with_grid(self, *, lrs: Sequence[float] | None, weight_decays: Sequence[float] | None) -> SgdLinearProtocol:
        """The protocol with other values to try, on whatever data set; None or nothing leaves its own.

        Raises:
            RichrepError: a value out of range.
        """
        for name, values, low in (("lr", lrs, "> 0"), ("weight_decay", weight_decays, ">= 0")):
            for value in values or ():
                if not (math.isfinite(value) and (value > 0 or (value == 0 and low == ">= 0"))):
                    raise RichrepError(f"{name} must be a number {low}, got {value}.")
        changed = replace(self, lrs=tuple(lrs)) if lrs else self
        return replace(changed, weight_decays=tuple(weight_decays), weight_decays_of=()) if weight_decays else changed

    def for_dataset(self, name: str) -> Self:
        """The same with the weight decays of that data set, the only ones it then holds."""
        found = find_entry(name)
        grids = dict(self.weight_decays_of)
        grid = grids.get(found[0].name if found else name, self.weight_decays)
        return replace(self, weight_decays=grid, weight_decays_of=())

    def select(
        self, trainval: FeatureSet, train_rows: np.ndarray, val_rows: np.ndarray, *, memory: MemoryBudget = FRUGAL
    ) -> Choice:
        """The cell of highest val accuracy; ties go to the lower nll. Cells that diverge are left out, and said.

        Raises:
            DivergedError: every cell diverged.
        """
        check_rows(train_rows, val_rows)
        train, val = (trainval.take(rows, max_bytes=memory.kept) for rows in (train_rows, val_rows))
        return self.choose(train, val, views=views_of(trainval, train_rows), memory=memory)

    def choose(
        self,
        train: FeatureSet,
        val: FeatureSet,
        *,
        views: Sequence[Features] | None = None,
        memory: MemoryBudget = FRUGAL,
    ) -> Choice:
        """The same, of a set to train on, with random views of its images (None: its own), and a set to score."""
        views = views_of(train, None) if views is None else views
        contest, diverged = Contest(val.labels), list[str]()
        each = self.epoch == "best"
        cells = [SgdCell(lr, decay, self.seed) for lr in self.lrs for decay in self.weight_decays]
        for normalization in self.normalizations:

            def offer(head: SgdHead, normalization: str = normalization, **extra: Any) -> None:
                chosen = {"lr": head.lr, "weight_decay": head.weight_decay, "normalization": normalization} | extra
                contest.offer(Choice(chosen, head.logits(val.features), solver=head.solver_ | {"cells": len(cells)}))

            found = self._head(normalization, train).along(
                train.features,
                train.labels,
                cells,
                num_classes=train.num_classes,
                views=views,
                memory=memory,
                on_epoch=partial(_offer_epoch, offer) if each else None,
            )
            diverged += [f"{said} ({normalization})" for said in found.say_diverged()]
            for head in () if each else found.heads:
                offer(head)
        return conclude(contest, diverged)

    def refit(self, trainval: FeatureSet, choice: Choice, *, memory: MemoryBudget = FRUGAL) -> SgdHead:
        """Trained on all rows with the chosen options, to the last epoch (with epoch="best" as many as were best)."""
        chosen = dict(choice.hyperparameters)
        head = self._head(chosen.pop("normalization"), trainval).set_params(**chosen)
        return fit_sgd(head, trainval, memory)

    def _head(self, normalization: str, features: FeatureSet) -> SgdHead:
        return SgdHead(
            epochs=self.epochs,
            batch_size=self.batch_size,
            momentum=self.momentum,
            nesterov=self.nesterov,
            dampening=self.dampening,
            decay_bias=self.decay_bias,
            batch_norm=self.batch_norm,
            decay_batch_norm=self.decay_batch_norm,
            init=self.init,
            lr_factors=cosine(self.epochs) if self.cosine else step(self.epochs, self.milestones, self.gamma),
            seed=self.seed,
            normalization=normalization,
            blocks=spans(features),
        )


def _offer_epoch(offer: Callable[..., None], epoch: int, head: SgdHead) -> None:
    offer(head, epochs=epoch + 1)


def views_of(features: FeatureSet, rows: np.ndarray | None) -> list[Features]:
    """The random views of the given rows, or of all; none where there are only the features."""
    index = None if rows is None else torch.as_tensor(rows, dtype=torch.int64)
    return [as_rows(view, index) for view in getattr(features, "views", ())]


def fit_sgd(head: SgdHead, features: FeatureSet, memory: MemoryBudget) -> SgdHead:
    """The head trained on all rows of `features`, and on their random views where there are any."""
    return head.fit(
        features.features,
        features.labels,
        num_classes=features.num_classes,
        views=views_of(features, None),
        memory=memory,
    )


def conclude(contest: Contest, diverged: Sequence[str]) -> Choice:
    """The winner, whose `solver` says which cells diverged.

    Raises:
        DivergedError: all did.
    """
    if diverged and contest.is_empty:
        raise diverged_error(diverged)
    winner = contest.winner()
    if not diverged:
        return winner
    log.warning("SGD diverged and was left out: %s. The other cells went on.", "; ".join(diverged))
    return replace(winner, solver=winner.solver | {"diverged": list(diverged)})
