"""Chooses hyper-parameters on val. It is handed train and val, and never sees test."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from richrep.features.feature_set import FeatureSet
from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.features.normalize import DEFAULT_NORMALIZATIONS, Normalization
from richrep.features.pca import Pca
from richrep.features.rows import Features, Rows, as_rows
from richrep.heads.coordinates import shared_moments
from richrep.heads.linear import Linear, linear_logits, linear_predictions
from richrep.heads.logistic import LogisticHead
from richrep.heads.logistic_path import solve_logistic_path
from richrep.heads.path_ends import PathPoint

# 1e-7 takes two to three times the iterations of 5e-6, for one candidate of 92: on 6,000 images of CIFAR-10 and -100
# under C = 0.1 … 1,000, objectives of streamed and held rows came within 4.5e-7 of each other, 2.2e-6 at 5e-6.
_FINAL_TOL, _FINAL_MAX_ITER = 1e-7, 3000

DEFAULT_CS = tuple(float(c) for c in 10.0 ** np.linspace(-5, 6, 23))  # as wide as t-ReX's search; C = 1/(N·l2)


@dataclass(frozen=True)
class Candidate:
    """One (normalisation, penalty) and what it scored on val."""

    normalization: str
    l2: float
    val_accuracy: float
    objective: float
    iterations: int
    converged: bool


@dataclass(frozen=True, eq=False)
class Selection:
    """The chosen hyper-parameters and how they were chosen.

    Attributes:
        best: the candidate with the highest val accuracy.
        val_logits: (N_val, K) of the best candidate, fitted on train alone.
        linear: its weights (K, D) and biases (K,), from which a refit on train and val starts.
        normalization: of the best, fitted on train.
        candidates: all that were tried.
        solver: how the path of the best was solved, see `solve_logistic_path`.
        elapsed_s: time spent.
    """

    best: Candidate
    val_logits: torch.Tensor
    linear: Linear
    normalization: Normalization | Pca
    candidates: tuple[Candidate, ...]
    solver: dict[str, Any]
    elapsed_s: float


def check_rows(train_rows: np.ndarray, val_rows: np.ndarray) -> None:
    """Raises ValueError unless there are train and val rows, and none is both."""
    if min(len(train_rows), len(val_rows)) == 0 or np.intersect1d(train_rows, val_rows).size:
        raise ValueError(
            f"selection needs disjoint train and val rows, got {len(train_rows)} and {len(val_rows)} "
            f"with {np.intersect1d(train_rows, val_rows).size} in both."
        )


class _Contest:
    """Scores heads on val as they come, and keeps the best of them alone."""

    def __init__(self, val: Features, labels: torch.Tensor) -> None:
        self._val, self._labels = val, labels
        self.candidates: list[Candidate] = []
        self.best: Candidate | None = None
        self.point: PathPoint | None = None

    def take(self, point: PathPoint) -> None:
        """Scores one head; it must be better, not as good, to be the best."""
        predictions = linear_predictions(self._val, point.weights, point.biases, point.normalization)
        candidate = Candidate(
            normalization=point.normalization.name,
            l2=point.l2,
            val_accuracy=float((predictions == self._labels).double().mean()),
            objective=point.objective,
            iterations=point.iterations,
            converged=point.converged,
        )
        self.candidates.append(candidate)
        if self.best is None or candidate.val_accuracy > self.best.val_accuracy:
            self.best, self.point = candidate, point


def select_logistic(
    trainval: FeatureSet,
    train_rows: np.ndarray,
    val_rows: np.ndarray,
    *,
    cs: Sequence[float] = DEFAULT_CS,
    normalizations: Sequence[str] = DEFAULT_NORMALIZATIONS,
    near: Linear | None = None,
    memory: MemoryBudget = FRUGAL,
) -> Selection:
    """The penalty and the normalisation with the best val accuracy, the whole path fitted on train.

    Ties go to the larger penalty within a normalisation, and between normalisations to the one named first.

    Args:
        trainval: features of train and val together.
        train_rows, val_rows: rows of `trainval`; disjoint.
        cs: scikit-learn's C; the penalty is l2 = 1/(N_train·C).
        normalizations: keys of NORMALIZATIONS, "pca:C" or both, e.g. "block-rms+pca:64".
        near: weights (K, D) and biases (K,) where the paths begin, such as a head that is there already; it changes the
            time they take, not the result.
        memory: what it may hold beside the features, and where it computes; of all heads it keeps the best alone. What
            is chosen is given back on the device of the labels.

    Raises:
        RichrepError: `memory` is too small.
        ValueError: no train or no val rows, or train and val overlap.
    """
    check_rows(train_rows, val_rows)
    start, origin = time.perf_counter(), trainval.labels.device
    trainval = trainval.on(memory)
    if not normalizations:
        raise ValueError("selection needs at least one normalization, got none.")
    rows = torch.as_tensor(train_rows, dtype=torch.int64)
    val_index = torch.as_tensor(val_rows, dtype=torch.int64)
    val = as_rows(trainval.features, val_index)
    contest = _Contest(_held(val, memory), trainval.labels[val_index])
    raw = shared_moments(as_rows(trainval.features, rows), trainval.blocks, memory)
    solver: dict[str, Any] = {}
    for name in normalizations:
        before = contest.best
        solved = solve_logistic_path(
            trainval.features,
            trainval.labels,
            contest.take,
            num_classes=trainval.num_classes,
            l2s=[1 / (len(rows) * c) for c in cs],
            normalization=name,
            blocks=trainval.blocks,
            rows=rows,
            raw_moments=raw,
            near=near,
            memory=memory,
        )
        solver = solver if contest.best is before else solved
    assert contest.best is not None and contest.point is not None
    point = contest.point
    logits = linear_logits(val, point.weights, point.biases, point.normalization)
    return Selection(
        best=contest.best,
        val_logits=logits.to(origin),
        linear=(point.weights.to(origin), point.biases.to(origin)),
        normalization=point.normalization.to(origin),
        candidates=tuple(contest.candidates),
        solver=solver,
        elapsed_s=time.perf_counter() - start,
    )


def refit_logistic(
    trainval: FeatureSet, chosen: Mapping[str, Any], near: Linear | None, *, memory: MemoryBudget = FRUGAL
) -> LogisticHead:
    """The head of the chosen "l2" and "normalization" on all rows, from where the selected head was.

    Unlike the candidates, which need only be told apart, it is solved until its objective is the same to 1e-6 however
    the rows were read and rounded: streamed or held, by one thread or by many.
    """
    blocks = [(block.start, block.stop) for block in trainval.blocks]
    head = LogisticHead(**chosen, blocks=blocks, tol=_FINAL_TOL, max_iter=_FINAL_MAX_ITER)
    return head.fit(trainval.features, trainval.labels, num_classes=trainval.num_classes, near=near, memory=memory)


def _held(rows: Rows, memory: MemoryBudget) -> Features:
    """The rows in memory where they fit, since every candidate reads them; by reference where they do not."""
    return rows[:] if len(rows) * rows.shape[1] * rows.dtype.itemsize <= memory.kept else rows
