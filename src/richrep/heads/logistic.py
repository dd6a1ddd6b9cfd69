"""Multinomial logistic regression with an l2 penalty: the head of the default protocol."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.features.rows import as_rows
from richrep.heads.estimator import EstimatorHead, as_blocks, check_folds, make_linear
from richrep.heads.linear import Linear, linear_logits
from richrep.heads.logistic_path import LogisticPath, fit_logistic_path


class LogisticHead(EstimatorHead):
    """Softmax regression, `(1/N) Σ cross-entropy + (l2/2)·‖W‖²` with the bias unpenalised.

    Böhning, Multinomial logistic regression algorithm, 1992, https://doi.org/10.1007/BF00048682, for the bound that
    preconditions it. The whole penalty path costs little more than one penalty: see `fit_logistic_path`.

    Differs from scikit-learn's LogisticRegression: the penalty is `l2 = 1/(N·C)`, the features may be normalised as
    part of the head, and float32 is solved to 1e-4 of the objective or better. It is a scikit-learn estimator.

    Args:
        l2: penalty on the weights, > 0; larger means smoother.
        normalization: a key of NORMALIZATIONS, "pca:C", or both ("standard+pca:64"), fitted on the training rows.
        blocks: (start, stop) columns of each backbone for the "block-…" normalisations; None means one block.
        tol: relative decrease of the objective at which fitting stops.
        max_iter: iterations at most.

    Attributes:
        classes_: (K,) labels in the order of the logits.
        weight_: (K, D) and bias_: (K,) tensors. They act on the raw features, except after "l2" and "block-l2", which
            act on each image by itself and stay a step of their own (`normalization_`).
        coef_, intercept_: the same as arrays in scikit-learn's shapes, (1, D) and (1,) for two classes.
        objective_: value of the objective reached; n_iter_: iterations; converged_: whether `max_iter` sufficed.
        solver_: how it was solved, see `solve_logistic_path`.
    """

    def __init__(
        self,
        l2: float = 1e-3,
        *,
        normalization: str = "none",
        blocks: Sequence[tuple[int, int]] | None = None,
        tol: float = 5e-6,
        max_iter: int = 500,
    ) -> None:
        self.l2 = l2
        self.normalization = normalization
        self.blocks = blocks
        self.tol = tol
        self.max_iter = max_iter

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        num_classes: int | None = None,
        near: Linear | None = None,
        memory: MemoryBudget = FRUGAL,
    ) -> Self:
        """Learns from features X (N, D) and labels y (N,).

        Args:
            X: array, tensor or Rows, floating point.
            y: integers in [0, K) with `num_classes`; without it, any labels, of which the distinct ones are counted.
            num_classes: K; a class of [0, K) without a row gets probability 0.
            near: weights (K, D) and biases (K,) to start from; they change the time it takes, not the result.
            memory: what fitting may hold beside the features, and where it computes; it changes the way, not the
                result, which is where `X` is.

        Raises:
            FeatureError: features of the wrong shape, or not finite.
            ValueError: labels out of range or of fewer than two classes; a bad `l2` or `normalization`.
        """
        features, labels = self._read_training(X, y, num_classes)
        origin = labels.device
        if memory.device is not None:
            features = as_rows(features).on(memory.device, memory.resident)
        path = fit_logistic_path(
            features,
            labels.to(features.device),
            num_classes=len(self.classes_),
            l2s=[self.l2],
            normalization=self.normalization,
            blocks=as_blocks(self.blocks),
            near=near,
            tol=self.tol,
            max_iter=self.max_iter,
            memory=memory,
        )
        return self._adopt(path, 0, origin)

    @classmethod
    def from_path(cls, path: LogisticPath, index: int) -> LogisticHead:
        """The head of penalty `index` of a fitted path; its classes are 0 … K-1."""
        head = cls(l2=float(path.l2s[index]), normalization=path.normalization.name, blocks=path.normalization.blocks)
        head.classes_ = np.arange(path.weights.shape[1])
        head.n_features_in_ = path.normalization.blocks[-1][1]
        return head._adopt(path, index, path.weights.device)

    def _adopt(self, path: LogisticPath, index: int, device: torch.device) -> Self:
        self.weight_, self.bias_ = path.weights[index].to(device), path.biases[index].to(device)
        self.normalization_ = path.normalization.to(device)
        self.solver_ = path.solver
        self.objective_ = float(path.objectives[index])
        self.n_iter_ = int(path.iterations[index])
        self.converged_ = bool(path.converged[index])
        if not self.converged_:
            warnings.warn(
                f"logistic regression with l2 = {self.l2:g} did not converge in {self.max_iter} iterations. "
                "Raise max_iter, or l2.",
                ConvergenceWarning,
                stacklevel=3,
            )
        return self

    def logits(self, X: Any) -> torch.Tensor:
        """Scores (N, K) of features (N, D); larger means more likely; -inf for a class never seen."""
        return linear_logits(self._read_features(X), self.weight_, self.bias_, self.normalization_)

    @property
    def coef_(self) -> np.ndarray:
        """Weights in scikit-learn's shape: (K, D), or (1, D) for two classes."""
        self._check_fitted()
        weight = self.weight_.cpu()
        return np.asarray(weight[1:] - weight[:1] if len(self.classes_) == 2 else weight)

    @property
    def intercept_(self) -> np.ndarray:
        """Biases in scikit-learn's shape: (K,), or (1,) for two classes."""
        self._check_fitted()
        bias = self.bias_.cpu()
        return np.asarray(bias[1:] - bias[:1] if len(self.classes_) == 2 else bias)

    def to_linear(self) -> nn.Linear:
        """The head as a layer (D -> K) on the raw features, where fine-tuning starts.

        Raises:
            ValueError: after "l2" and "block-l2", which no linear layer can hold.
        """
        self._check_fitted()
        check_folds(self.normalization_)
        return make_linear(self.weight_, self.bias_)
