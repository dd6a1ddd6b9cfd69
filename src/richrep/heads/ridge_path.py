"""Ridge regression on one-hot targets for a whole path of penalties, from one eigen-decomposition.

Objective of one penalty: `(1/N) Σ ½‖target - logits‖² + (l2/2)·‖W‖²`, bias unpenalised; scikit-learn's `alpha = N·l2`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn import functional as F

from richrep.features.feature_set import Block
from richrep.features.gram import sample_gram
from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.features.normalize import (
    PER_IMAGE,
    Moments,
    Normalization,
    centred_chunks,
    fit_normalization,
    moments,
)
from richrep.features.rows import Features, Rows, as_rows
from richrep.heads.head import check_features, check_labels
from richrep.heads.ridge_spectrum import RidgeSpectrum, spectrum_of_columns, spectrum_of_samples

Side = Literal["columns", "samples"]

_CHUNK_VALUES = 2**20  # of coordinates: 8 MiB in float64
_SQUARES = 24  # bytes a value of the Gram matrix that is taken apart: itself, and LAPACK's work
_TABLES = 56  # bytes a value of a table (D, K) or (N, K): slopes, weights, and their copies on the way to float32


@dataclass(frozen=True, eq=False)
class RidgePath:
    """Ridge heads for any penalty, on the same normalised rows.

    Attributes:
        features, rows: what it was fitted on; read again by `linear` (by samples) and by leave-one-out.
        codes: (N,) class of each row, as a position in `classes`.
        classes: (K',) the classes that have a row; K' <= K.
        num_classes: K.
        spectrum: float64; side: which Gram matrix it came from.
        normalization: fitted on the rows.
        mean: (D,) float64, of the normalised rows.
        memory_limit: in bytes, under which it was fitted.
    """

    features: Features
    rows: torch.Tensor | None
    codes: torch.Tensor
    classes: torch.Tensor
    num_classes: int
    spectrum: RidgeSpectrum
    side: Side
    normalization: Normalization
    mean: torch.Tensor
    memory_limit: int | None = None

    @property
    def target_mean(self) -> torch.Tensor:
        """(K',) float64, how frequent each class is."""
        return torch.bincount(self.codes).to(torch.float64) / len(self.codes)

    @property
    def solver(self) -> dict[str, Any]:
        """How it was solved, as a record states it."""
        rows, columns = len(self.codes), self.features.shape[1]
        return {"side": self.side, "rows": rows, "columns": columns, "memory_limit": self.memory_limit}

    @property
    def trace(self) -> float:
        """Of XᵀX/N: what the features' columns vary in all, the measure of a penalty."""
        return float(self.spectrum.values.sum())

    def linear(self, l2: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights (K, D) and biases (K,) of one penalty; a class without a row has weights 0 and bias -inf.

        The weights act on the features as they came, unless the normalisation does not fold: then on its output.
        """
        (weights,) = self.spectrum.weights(_penalties([l2], self.features.device))  # (r, K')
        columns = self._on_columns(weights)  # (D, K')
        biases = self.target_mean - self.mean @ columns
        if self.normalization.folds:
            columns.mul_(self.normalization.scale[:, None])
        dtype = torch.promote_types(self.features.dtype, torch.float32)
        all_weights = torch.zeros(self.num_classes, len(columns), dtype=dtype, device=columns.device)
        all_biases = torch.full((self.num_classes,), -torch.inf, dtype=dtype, device=columns.device)
        all_weights[self.classes], all_biases[self.classes] = columns.T.to(dtype), biases.to(dtype)
        return all_weights, all_biases

    def objective(self, l2: float) -> float:
        """Value of the objective at its minimum."""
        spread = 1 - float(self.target_mean.square().sum())  # mean of ‖y - ȳ‖² over the rows
        explained = self.spectrum.slopes.square().sum(1) / (self.spectrum.values + l2)
        return (spread - float(explained.sum())) / 2

    def leave_one_out(self, l2s: Sequence[float]) -> Iterator[tuple[int, torch.Tensor]]:
        """(offset, logits (L, B, K') of rows by the heads fitted without them), chunk by chunk; exact, no refit.

        The normalisation stays as fitted on all rows. See `RidgeSpectrum.leave_one_out`.
        """
        penalties, total = _penalties(l2s, self.features.device), len(self.codes)
        for start, coordinates in self._coordinates(rank=len(self.spectrum.values)):
            codes = self.codes[start : start + len(coordinates)]
            targets = F.one_hot(codes, len(self.classes)).to(torch.float64)
            yield start, self.spectrum.leave_one_out(coordinates, targets, self.target_mean, penalties, total)

    def leave_one_out_accuracies(self, l2s: Sequence[float]) -> torch.Tensor:
        """(L,) float64, fraction of the rows that the heads fitted without them classify rightly."""
        right = torch.zeros(len(l2s), dtype=torch.float64)
        for start, logits in self.leave_one_out(l2s):
            codes = self.codes[start : start + logits.shape[1]]
            right += (logits.argmax(2) == codes).sum(1).to(right)
        return right / len(self.codes)

    def _on_columns(self, weights: torch.Tensor) -> torch.Tensor:
        """Weights (r, K') on the eigenvectors -> (D, K') on the normalised columns."""
        if self.side == "columns":
            return self.spectrum.vectors @ weights
        lengths = (len(self.codes) * self.spectrum.values).sqrt()
        on_samples = self.spectrum.vectors @ (weights / lengths[:, None])  # (N, K')
        columns = torch.zeros(self.features.shape[1], weights.shape[1], dtype=torch.float64, device=weights.device)
        for start, chunk in self._centred_chunks():
            columns.addmm_(chunk.T, on_samples[start : start + len(chunk)])
        return columns

    def _coordinates(self, *, rank: int) -> Iterator[tuple[int, torch.Tensor]]:
        """(offset, XV (B, r)) chunk by chunk."""
        if self.side == "columns":
            for start, chunk in self._centred_chunks():
                yield start, chunk @ self.spectrum.vectors
            return
        lengths = (len(self.codes) * self.spectrum.values).sqrt()
        step = max(1, _CHUNK_VALUES // max(1, rank))
        for start in range(0, len(self.codes), step):
            yield start, self.spectrum.vectors[start : start + step] * lengths

    def _centred_chunks(self) -> Iterator[tuple[int, torch.Tensor]]:
        return centred_chunks(as_rows(self.features, self.rows), self.normalization, self.mean)


def fit_ridge_path(
    features: Features,
    labels: torch.Tensor,
    *,
    num_classes: int,
    normalization: str = "none",
    blocks: Sequence[Block] | None = None,
    rows: torch.Tensor | None = None,
    side: Side | None = None,
    memory: MemoryBudget = FRUGAL,
) -> RidgePath:
    """Everything that ridge heads of any penalty need, from one eigen-decomposition in float64.

    The features are read in chunks of rows, so that they may lie in a mapped file. Memory holds 3·D² values beside them
    by columns, 3·N² by samples.

    Args:
        features: (N, D) floating point.
        labels: (N,) int64 in [0, K); a class may be absent: its logits are then -inf.
        num_classes: K, at least 2.
        normalization: a key of NORMALIZATIONS, fitted on the rows used.
        blocks: which columns belong to which backbone, for the normalisations that go by backbone.
        rows: the rows to fit on; None means all.
        side: "columns" decomposes (D, D), "samples" (N, N); None takes the smaller. The result is the same.
        memory: what it may hold beside the features.

    Raises:
        FeatureError: features of the wrong shape, or not finite.
        RichrepError: `memory` has a limit that is too small.
        ValueError: labels out of range, fewer than two classes present.
    """
    check_features(features)
    check_labels(labels, num_rows=len(features), num_classes=num_classes)
    used = labels if rows is None else labels[rows]
    classes, codes = torch.unique(used, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"fitting needs at least two classes, got {len(classes)} among {len(used)} training rows.")
    chosen: Side = side or ("columns" if len(used) >= features.shape[1] else "samples")
    _check_memory(len(used), features.shape[1], len(classes), chosen, memory)
    chosen_rows = as_rows(features, rows)
    fitted, stats = _moments(chosen_rows, normalization, blocks, with_gram=chosen == "columns")
    if chosen == "columns":
        assert stats.gram is not None
        spectrum = spectrum_of_columns(stats.gram, _slopes(chosen_rows, codes, fitted, stats.mean))
    else:
        targets = F.one_hot(codes).to(torch.float64)
        gram = sample_gram(chosen_rows, normalization=fitted, mean=stats.mean, memory=memory).div_(len(used))
        spectrum = spectrum_of_samples(gram, targets - targets.mean(0))
    return RidgePath(features, rows, codes, classes, num_classes, spectrum, chosen, fitted, stats.mean, memory.limit)


def _check_memory(count: int, dim: int, classes: int, side: Side, memory: MemoryBudget) -> None:
    """Raises RichrepError, with the limit that would do, when the problem does not fit."""
    size = dim if side == "columns" else count
    what = f"ridge regression on {count:,} images x {dim:,} features"
    memory.check_square(
        _SQUARES * size**2,
        f"{what}, by its Gram matrix of {size:,} x {size:,} (--protocol logistic takes blocks of it),",
    )
    memory.check_state(_TABLES * classes * max(size, dim), f"{what} with {classes:,} classes")


def _moments(
    rows: Rows, name: str, blocks: Sequence[Block] | None, *, with_gram: bool
) -> tuple[Normalization, Moments]:
    """The normalisation `name` fitted on the rows, and the moments of the normalised rows."""
    raw = moments(rows, with_gram=with_gram and name not in PER_IMAGE)
    fitted = fit_normalization(name, raw, blocks=blocks, dtype=rows.dtype)
    if not fitted.folds:
        return fitted, moments(rows, with_gram=with_gram, normalization=fitted)
    scale = fitted.scale
    gram = None if raw.gram is None else raw.gram.mul_(scale).mul_(scale[:, None])
    return fitted, Moments(raw.mean * scale, gram, raw.variance * scale.square(), raw.num_rows)


def _slopes(rows: Rows, codes: torch.Tensor, normalization: Normalization, mean: torch.Tensor) -> torch.Tensor:
    """XᵀY/N (D, K') from the sums of each class: the centred features take the mean of Y off by themselves."""
    sums = torch.zeros(int(codes.max()) + 1, len(mean), dtype=torch.float64, device=rows.device)
    for start, centred in centred_chunks(rows, normalization, mean):
        sums.index_add_(0, codes[start : start + len(centred)], centred)
    return sums.T.div_(len(codes))


def _penalties(l2s: Sequence[float], device: torch.device) -> torch.Tensor:
    penalties = torch.as_tensor(l2s, dtype=torch.float64, device=device)
    if penalties.ndim != 1 or len(penalties) == 0 or not bool(((penalties > 0) & penalties.isfinite()).all()):
        raise ValueError(f"l2 must be > 0 and finite for every penalty, got {list(l2s)}.")
    return penalties
