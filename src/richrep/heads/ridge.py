"""Ridge regression on one-hot targets: a linear head in closed form."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.features.normalize import Normalization
from richrep.features.pca import Pca, fit_pca, split_pca
from richrep.heads.estimator import EstimatorHead, as_blocks, check_folds, make_linear
from richrep.heads.linear import linear_logits
from richrep.heads.ridge_path import RidgePath, fit_ridge_path


class RidgeHead(EstimatorHead):
    """Least squares to one-hot targets, `(1/N) Σ ½‖target - logits‖² + (l2/2)·‖W‖²` with the bias unpenalised.

    Hoerl and Kennard, Ridge regression: biased estimation for nonorthogonal problems, 1970,
    https://doi.org/10.1080/00401706.1970.10488634. Exact, in one eigen-decomposition of the smaller Gram matrix; all
    penalties and their leave-one-out errors come from the same one: see `fit_ridge_path`.

    Differs from scikit-learn's Ridge: the penalty is `l2 = alpha/N`, the features may be normalised as part of the
    head. The logits are scores near 0 and 1, not log-probabilities: their ranking is meant, not their softmax.

    Args:
        l2: penalty on the weights, > 0; larger means smoother.
        normalization: a key of NORMALIZATIONS, "pca:C", or both ("standard+pca:64"), fitted on the training rows.
        blocks: (start, stop) columns of each backbone for the "block-…" normalisations; None means one block.

    Attributes:
        classes_: (K,) labels in the order of the logits.
        weight_: (K, D) and bias_: (K,) tensors. They act on the raw features, except after "l2" and "block-l2", which
            act on each image by itself and stay a step of their own (`normalization_`).
        objective_: value of the objective.
        solver_: how it was solved: the "side" of its Gram matrix, of "rows" x "columns", and the "memory_limit".
    """

    def __init__(
        self, l2: float = 1e-3, *, normalization: str = "none", blocks: Sequence[tuple[int, int]] | None = None
    ) -> None:
        self.l2 = l2
        self.normalization = normalization
        self.blocks = blocks

    def fit(self, X: Any, y: Any, *, num_classes: int | None = None, memory: MemoryBudget = FRUGAL) -> Self:
        """Learns from features X (N, D) and labels y (N,).

        Args:
            X: array, tensor or Rows, floating point.
            y: integers in [0, K) with `num_classes`; without it, any labels, of which the distinct ones count.
            num_classes: K; a class of [0, K) without a row gets logits of -inf.
            memory: what fitting may hold beside the features, which are read by the chunk.

        Raises:
            FeatureError: features of the wrong shape, or not finite.
            RichrepError: `memory` has a limit that is too small.
            ValueError: labels out of range or of fewer than two classes; a bad `l2` or `normalization`.
        """
        path, normalization = self._fit_path(X, y, num_classes, memory)
        return self._adopt(path, normalization)

    def along(
        self,
        X: Any,
        y: Any,
        ratios: Sequence[float],
        *,
        num_classes: int | None = None,
        memory: MemoryBudget = FRUGAL,
    ) -> Iterator[RidgeHead]:
        """Heads like this one for other penalties, all from one eigen-decomposition.

        Args:
            ratios: penalties as multiples of the trace of XᵀX/N, so that they fit features of any size.
        """
        path, normalization = self._fit_path(X, y, num_classes, memory)
        for ratio in ratios:
            head = copy.copy(self)
            head.l2 = ratio * (path.trace or 1.0)  # constant features: no penalty matters
            yield head._adopt(path, normalization)

    def _fit_path(
        self, X: Any, y: Any, num_classes: int | None, memory: MemoryBudget
    ) -> tuple[RidgePath, Normalization | Pca]:
        features, labels = self._read_training(X, y, num_classes)
        options: dict[str, Any] = {"num_classes": len(self.classes_), "memory": memory}
        before, num_components = split_pca(self.normalization)
        blocks = as_blocks(self.blocks)
        if num_components:
            pca = fit_pca(features, before=before, num_components=num_components, blocks=blocks, memory=memory)
            return fit_ridge_path(pca.project(features, None, memory=memory), labels, **options), pca
        path = fit_ridge_path(features, labels, normalization=before, blocks=blocks, **options)
        return path, path.normalization

    @classmethod
    def from_path(cls, path: RidgePath, l2: float) -> RidgeHead:
        """The head of one penalty of a fitted path; its classes are 0 … K-1."""
        head = cls(l2, normalization=path.normalization.name, blocks=path.normalization.blocks)
        head.classes_ = np.arange(path.num_classes)
        head.n_features_in_ = path.features.shape[1]
        return head._adopt(path, path.normalization)

    def _adopt(self, path: RidgePath, normalization: Normalization | Pca) -> Self:
        weight, bias = path.linear(self.l2)
        if isinstance(normalization, Pca) and normalization.folds:
            weight, bias = normalization.fold(weight, bias)
        self.weight_, self.bias_ = weight, bias
        self.objective_ = path.objective(self.l2)
        self.solver_ = path.solver
        self.normalization_ = normalization
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
