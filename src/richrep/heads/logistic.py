"""Multinomial logistic regression with an l2 penalty: the head of the default protocol."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data
from torch import nn

from richrep.errors import FeatureError
from richrep.features.feature_set import Block
from richrep.features.normalize import Normalization
from richrep.heads.head import as_tensor, check_features
from richrep.heads.logistic_path import Linear, LogisticPath, fit_logistic_path


class LogisticHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Softmax regression, `(1/N) Σ cross-entropy + (l2/2)·‖W‖²` with the bias unpenalised.

    Böhning, Multinomial logistic regression algorithm, 1992, https://doi.org/10.1007/BF00048682, for the bound that
    preconditions it. The whole penalty path costs little more than one penalty: see `fit_logistic_path`.

    Differs from scikit-learn's LogisticRegression: the penalty is `l2 = 1/(N·C)`, the features may be normalised as
    part of the head, and float32 is solved to 1e-4 of the objective or better. It is a scikit-learn estimator.

    Args:
        l2: penalty on the weights, > 0; larger means smoother.
        normalization: "none", "standard", "block-rms" or "block-l2", fitted on the training rows.
        blocks: (start, stop) columns of each backbone for the "block-…" normalisations; None means one block.
        tol: relative decrease of the objective at which fitting stops.
        max_iter: iterations at most.

    Attributes:
        classes_: (K,) labels in the order of the logits.
        weight_: (K, D) and bias_: (K,) tensors. They act on the raw features, except after "block-l2", which acts on
            each image by itself and stays a step of its own (`normalization_`).
        coef_, intercept_: the same as arrays in scikit-learn's shapes, (1, D) and (1,) for two classes.
        objective_: value of the objective reached; n_iter_: iterations; converged_: whether `max_iter` sufficed.
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

    def fit(self, X: Any, y: Any, *, num_classes: int | None = None, near: Linear | None = None) -> Self:
        """Learns from features X (N, D) and labels y (N,).

        Args:
            X: array or tensor, floating point.
            y: integers in [0, K) with `num_classes`; without it, any labels, of which the distinct ones are counted.
            num_classes: K; a class of [0, K) without a row gets probability 0.
            near: weights (K, D) and biases (K,) to start from; they change the time it takes, not the result.

        Raises:
            FeatureError: features of the wrong shape, or not finite.
            ValueError: labels out of range or of fewer than two classes; a bad `l2` or `normalization`.
        """
        if isinstance(X, torch.Tensor):
            features = X.detach()
            check_features(features)
            y = np.asarray(y.cpu() if isinstance(y, torch.Tensor) else y)
            self.n_features_in_ = X.shape[1]
        else:
            X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], ensure_all_finite=False)
            features = as_tensor(X)
        if num_classes is None:
            check_classification_targets(y)
            self.classes_, codes = np.unique(y, return_inverse=True)
            if len(self.classes_) < 2:
                raise ValueError(f"fitting needs at least two classes, got one class: {self.classes_.tolist()[0]!r}.")
        elif y.dtype.kind not in "iu":
            raise ValueError(f"labels must be integers in [0, {num_classes}) with num_classes, got type {y.dtype}.")
        else:
            self.classes_, codes = np.arange(num_classes), y
        blocks = [Block(f"member{i}", a, b) for i, (a, b) in enumerate(self.blocks)] if self.blocks else None
        path = fit_logistic_path(
            features,
            torch.as_tensor(codes, dtype=torch.int64, device=features.device),
            num_classes=len(self.classes_),
            l2s=[self.l2],
            normalization=self.normalization,
            blocks=blocks,
            near=near,
            tol=self.tol,
            max_iter=self.max_iter,
        )
        return self._adopt(path, 0)

    @classmethod
    def from_path(cls, path: LogisticPath, index: int) -> LogisticHead:
        """The head of penalty `index` of a fitted path; its classes are 0 … K-1."""
        head = cls(l2=float(path.l2s[index]), normalization=path.normalization.name, blocks=path.normalization.blocks)
        head.classes_ = np.arange(path.weights.shape[1])
        head.n_features_in_ = path.weights.shape[2]
        return head._adopt(path, index)

    def _adopt(self, path: LogisticPath, index: int) -> Self:
        self.weight_, self.bias_ = path.weights[index], path.biases[index]
        self.normalization_: Normalization = path.normalization
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

    def _features(self, X: Any) -> torch.Tensor:
        """Features of the fitted width as a tensor; arrays go through scikit-learn's checks."""
        if not isinstance(X, torch.Tensor):
            X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32], ensure_all_finite=False)
        features = as_tensor(X).detach()
        if features.ndim != 2 or features.shape[1] != self.n_features_in_:
            raise FeatureError(
                f"features must have shape (N, {self.n_features_in_}) as in fit, got {tuple(features.shape)}."
            )
        check_features(features)
        return features

    def _check_fitted(self) -> None:
        if not hasattr(self, "weight_"):
            raise NotFittedError(f"This {type(self).__name__} is not fitted yet. Call fit(features, labels) first.")

    def logits(self, X: Any) -> torch.Tensor:
        """Scores (N, K) of features (N, D); larger means more likely; -inf for a class never seen."""
        self._check_fitted()
        features = self._features(X).to(self.weight_)  # the type it was fitted in; float16 would overflow in the norms
        if not self.normalization_.folds:
            features = self.normalization_.apply(features)
        return torch.addmm(self.bias_, features, self.weight_.T)

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits as an array (N, K); for two classes their difference (N,), as in scikit-learn."""
        scores = self.logits(X)
        return np.asarray((scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores).cpu())

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (N, K); rows sum to 1."""
        return np.asarray(self.logits(X).softmax(1).cpu())

    def predict(self, X: Any) -> np.ndarray:
        """The most likely class of each row (N,)."""
        best = self.logits(X).argmax(1)
        return np.asarray(self.classes_[np.asarray(best.cpu())])

    @property
    def coef_(self) -> np.ndarray:
        """Weights in scikit-learn's shape: (K, D), or (1, D) for two classes."""
        self._check_fitted()
        return np.asarray(self.weight_[1:] - self.weight_[:1] if len(self.classes_) == 2 else self.weight_)

    @property
    def intercept_(self) -> np.ndarray:
        """Biases in scikit-learn's shape: (K,), or (1,) for two classes."""
        self._check_fitted()
        return np.asarray(self.bias_[1:] - self.bias_[:1] if len(self.classes_) == 2 else self.bias_)

    def to_linear(self) -> nn.Linear:
        """The head as a layer (D -> K) on the raw features, where fine-tuning starts.

        Raises:
            ValueError: after "block-l2", which no linear layer can hold.
        """
        self._check_fitted()
        if not self.normalization_.folds:
            raise ValueError(
                "a head fitted with normalization 'block-l2' is not linear in the raw features. "
                "Fit with 'none', 'standard' or 'block-rms' to get a layer."
            )
        classes, dim = self.weight_.shape
        layer = nn.Linear(dim, classes, dtype=self.weight_.dtype)
        with torch.no_grad():
            layer.weight.copy_(self.weight_)
            layer.bias.copy_(self.bias_)
        return layer
