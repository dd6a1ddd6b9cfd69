"""A linear head trained by mini-batch SGD, with batch normalisation before it or without: the papers' linear probes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn

from richrep.errors import DivergedError, FeatureError
from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.features.normalize import Normalization
from richrep.features.pca import Pca, fit_named
from richrep.features.rows import Features, Rows, as_rows, row_chunks
from richrep.heads.estimator import EstimatorHead, as_blocks, check_folds, make_linear
from richrep.heads.head import check_features
from richrep.heads.linear import Linear, linear_logits
from richrep.heads.lr_factors import LrFactors
from richrep.heads.sgd_grid import SgdCell, SgdRecipe, TrainedCell, train_cells

_CHUNK_VALUES = 2**20


class SgdHead(EstimatorHead):
    """Softmax regression by stochastic gradient descent, stopped after a number of epochs.

    Robbins and Monro, A stochastic approximation method, 1951, https://doi.org/10.1214/aoms/1177729586; as
    torch.nn.Linear, BatchNorm1d and torch.optim.SGD compute it on the same batches. Unlike the other heads it is not a
    minimum of anything: schedule, batch size and seed are part of the method.

    Differs from a torch loop: the features are computed beforehand, and many heads train at once (`along`).

    Args:
        lr: learning rate, > 0; weight_decay: >= 0, coupled.
        epochs, batch_size, momentum, nesterov, dampening, decay_bias, batch_norm, decay_batch_norm, init, lr_factors,
            lr_per: as of `SgdRecipe`.
        seed: of the first weights and of the order of the rows.
        normalization: a key of NORMALIZATIONS, "pca:C" or both, fitted on the training rows.
        blocks: (start, stop) columns of each backbone for the "block-…" normalisations; None means one block.

    Attributes:
        classes_: (K,) labels in the order of the logits.
        weight_: (K, D) and bias_: (K,) tensors, batch normalisation folded in; -inf for a class without a row. They act
            on the raw features, except after "l2" and "block-l2" (`normalization_`).
        solver_: "samples": whether the rows are "kept" in memory as batches read them, or "streamed"; "views": how many
            the epochs cycle through; "memory_limit".
    """

    def __init__(
        self,
        lr: float = 0.1,
        weight_decay: float = 0.0,
        *,
        epochs: int = 100,
        batch_size: int = 256,
        momentum: float = 0.9,
        nesterov: bool = False,
        dampening: float = 0.0,
        decay_bias: bool = True,
        batch_norm: bool = False,
        decay_batch_norm: bool = True,
        init: str = "default",
        lr_factors: LrFactors | None = None,
        lr_per: str = "epoch",
        seed: int = 0,
        normalization: str = "none",
        blocks: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self.lr = lr
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.momentum = momentum
        self.nesterov = nesterov
        self.dampening = dampening
        self.decay_bias = decay_bias
        self.batch_norm = batch_norm
        self.decay_batch_norm = decay_batch_norm
        self.init = init
        self.lr_factors = lr_factors
        self.lr_per = lr_per
        self.seed = seed
        self.normalization = normalization
        self.blocks = blocks

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        num_classes: int | None = None,
        views: Sequence[Features] = (),
        memory: MemoryBudget = FRUGAL,
    ) -> Self:
        """Learns from features X (N, D) and labels y (N,).

        Args:
            X: array, tensor or Rows, floating point.
            y: integers in [0, K) with `num_classes`; without it, any labels, of which the distinct ones count.
            num_classes: K; a class of [0, K) without a row takes part in training, and gets logits of -inf afterwards.
            views: other features (N, D) of the same rows: epoch e reads view e % V of them instead of X.
            memory: what fitting may hold beside the features, which are read by the batch.

        Raises:
            DivergedError: the weights are not finite any more.
            FeatureError: features of the wrong shape, or not finite.
            ValueError: labels out of range or of fewer than two classes; a bad option.
        """
        own = SgdCell(self.lr, self.weight_decay, self.seed)
        found = self.along(X, y, [own], num_classes=num_classes, views=views, memory=memory)
        self.__dict__ |= found.only_head().__dict__
        return self

    def along(
        self,
        X: Any,
        y: Any,
        cells: Sequence[SgdCell],
        *,
        num_classes: int | None = None,
        views: Sequence[Features] = (),
        memory: MemoryBudget = FRUGAL,
        on_epoch: Callable[[int, SgdHead], None] | None = None,
    ) -> SgdHeads:
        """Heads like this one for other learning rates, weight decays and seeds, all trained at once.

        Args:
            cells: each is trained as if it were alone.
            on_epoch: called for every cell that has not diverged, at the end of every epoch (from 0), with its head.
        """
        features, labels = self._read_training(X, y, num_classes)
        for cell in cells:
            _check_cell(cell)
        for view in views:
            _check_view(view, features)
        fitted = fit_named(self.normalization, features, blocks=as_blocks(self.blocks))
        seen = torch.bincount(labels, minlength=len(self.classes_)) > 0
        rows, kept = _prepare(views or [features], fitted, memory)
        solver = {"samples": "kept" if kept else "streamed", "views": len(rows), "memory_limit": memory.limit}

        def head_of(cell: SgdCell, linear: Linear) -> SgdHead:
            head = copy.copy(self)
            head.lr, head.weight_decay, head.seed = cell.lr, cell.weight_decay, cell.seed
            return head._adopt(linear, fitted, seen, solver)

        trained = train_cells(
            rows,
            labels,
            cells,
            self._recipe(),
            num_classes=len(self.classes_),
            memory=memory,
            apply=(lambda batch: batch) if kept else fitted.apply,
            on_epoch=on_epoch and (lambda epoch, place, linear: on_epoch(epoch, head_of(cells[place], linear))),
        )
        heads = tuple(head_of(found.cell, found.linear) for found in trained if found.linear is not None)
        return SgdHeads(heads, tuple(found for found in trained if found.linear is None))

    def _recipe(self) -> SgdRecipe:
        return SgdRecipe(**{name: getattr(self, name) for name in SgdRecipe.__dataclass_fields__})

    def _adopt(
        self, linear: Linear, normalization: Normalization | Pca, seen: torch.Tensor, solver: dict[str, Any]
    ) -> Self:
        weight, bias = normalization.fold(*linear) if normalization.folds else linear
        self.weight_, self.bias_ = weight, bias.masked_fill(~seen, -torch.inf)
        self.normalization_ = normalization
        self.solver_ = solver
        return self

    def logits(self, X: Any) -> torch.Tensor:
        """Scores (N, K) of features (N, D); larger means more likely; -inf for a class never seen."""
        return linear_logits(self._read_features(X), self.weight_, self.bias_, self.normalization_)

    def to_linear(self) -> nn.Linear:
        """The head as a layer (D -> K) on the raw features, where fine-tuning starts.

        Raises:
            ValueError: after "l2" and "block-l2", which no linear layer can hold.
        """
        self._check_fitted()
        check_folds(self.normalization_)
        return make_linear(self.weight_, self.bias_)


@dataclass(frozen=True, eq=False)
class SgdHeads:
    """Heads trained at once, in the order of their cells, and the cells that diverged."""

    heads: tuple[SgdHead, ...]
    diverged: tuple[TrainedCell, ...]

    def say_diverged(self) -> list[str]:
        """One phrase a cell that stopped, e.g. "lr=100 weight_decay=0.1 seed=0 in epoch 3" (epochs from 0)."""
        return [
            f"lr={found.cell.lr:g} weight_decay={found.cell.weight_decay:g} seed={found.cell.seed} "
            f"in epoch {found.diverged_in}"
            for found in self.diverged
        ]

    def only_head(self) -> SgdHead:
        """The one head there is; DivergedError where it diverged."""
        if not self.heads:
            raise diverged_error(self.say_diverged())
        (head,) = self.heads
        return head


def diverged_error(said: Sequence[str]) -> DivergedError:
    """What to raise when all of these cells (`SgdHeads.say_diverged`) diverged and nothing is left."""
    return DivergedError(
        f"SGD diverged: {'; '.join(said)}. Lower the learning rate or the weight decay, or normalise the features."
    )


def _check_cell(cell: SgdCell) -> None:
    if not 0 < cell.lr < float("inf") or not 0 <= cell.weight_decay < float("inf") or cell.seed < 0:
        raise ValueError(
            "lr must be > 0, weight_decay and seed >= 0, "
            f"got lr={cell.lr}, weight_decay={cell.weight_decay}, seed={cell.seed}."
        )


def _check_view(view: Features, features: Features) -> None:
    if tuple(view.shape) != tuple(features.shape):
        raise FeatureError(
            f"every view must have the shape of the features, {tuple(features.shape)}, got {tuple(view.shape)}. "
            "Extract all from the same images and backbones."
        )
    check_features(view)


def _prepare(
    views: Sequence[Features], normalization: Normalization | Pca, memory: MemoryBudget
) -> tuple[Sequence[Features], bool]:
    """The views as batches read them, in memory; or as they are (False), where there is no room."""
    rows = [as_rows(view) for view in views]
    if normalization.name == "none" and all(view.gives_views for view in rows):
        return views, True
    if sum(len(view) * view.shape[1] * view.dtype.itemsize for view in rows) > memory.kept:
        return views, False
    step = max(1, _CHUNK_VALUES // rows[0].shape[1])

    def made(view: Rows) -> torch.Tensor:
        return torch.cat([normalization.apply(chunk) for _, chunk in row_chunks(view, None, chunk_rows=step)])

    return [made(view) for view in rows], True
