"""What every head shares: scikit-learn's methods over `logits`, and the checks of what goes in."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data
from torch import nn

from richrep.errors import FeatureError
from richrep.features.feature_set import Block
from richrep.features.normalize import Normalization
from richrep.features.pca import Pca
from richrep.features.rows import Features, Rows
from richrep.heads.head import as_tensor, check_features, check_labels


class EstimatorHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A head as a scikit-learn classifier; a member adds `fit` and `logits`.

    Attributes:
        classes_: (K,) labels in the order of the logits.
        n_features_in_: D.
        normalization_: fitted on the training rows; its presence says that the head is fitted.
    """

    classes_: np.ndarray
    n_features_in_: int
    normalization_: Normalization | Pca

    @abstractmethod
    def fit(self, X: Any, y: Any, *, num_classes: int | None = None) -> Self:
        """Learns from features X (N, D) and labels y (N,)."""

    @abstractmethod
    def logits(self, X: Any) -> torch.Tensor:
        """Scores (N, K) of features (N, D); larger means more likely; -inf for a class never seen."""

    def _read_training(self, X: Any, y: Any, num_classes: int | None) -> tuple[Features, torch.Tensor]:
        """Features (N, D) and labels (N,) int64 in [0, K) of one device; sets `classes_`.

        Raises:
            FeatureError: features of the wrong shape, or not finite.
            ValueError: labels out of range, or of fewer than two classes.
        """
        features: Features
        if isinstance(X, torch.Tensor | Rows):
            features = X if isinstance(X, Rows) else as_tensor(X).detach()
            check_features(features)
            y = np.asarray(y.cpu() if isinstance(y, torch.Tensor) else y)
            self.n_features_in_ = X.shape[1]
        else:
            X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], ensure_all_finite=False)
            features = as_tensor(X)
            check_features(features)
        if num_classes is None:
            check_classification_targets(y)
            self.classes_, codes = np.unique(y, return_inverse=True)
            if len(self.classes_) < 2:
                raise ValueError(f"fitting needs at least two classes, got one class: {self.classes_.tolist()[0]!r}.")
        elif y.dtype.kind not in "iu":
            raise ValueError(f"labels must be integers in [0, {num_classes}) with num_classes, got type {y.dtype}.")
        else:
            self.classes_, codes = np.arange(num_classes), y
        labels = torch.as_tensor(codes, dtype=torch.int64, device=features.device)
        check_labels(labels, num_rows=len(features), num_classes=len(self.classes_))
        if int(labels.min()) == int(labels.max()):
            raise ValueError(f"fitting needs at least two classes, got 1 among {len(labels)} training rows.")
        return features, labels

    def _read_features(self, X: Any) -> Features:
        """Features of the fitted width; arrays go through scikit-learn's checks."""
        self._check_fitted()
        if not isinstance(X, torch.Tensor | Rows):
            X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32], ensure_all_finite=False)
        features: Features = X if isinstance(X, Rows) else as_tensor(X).detach()
        if features.ndim != 2 or features.shape[1] != self.n_features_in_:
            raise FeatureError(
                f"features must have shape (N, {self.n_features_in_}) as in fit, got {tuple(features.shape)}."
            )
        check_features(features)
        return features

    def _check_fitted(self) -> None:
        if not hasattr(self, "normalization_"):
            raise NotFittedError(f"This {type(self).__name__} is not fitted yet. Call fit(features, labels) first.")

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


def as_blocks(spans: Sequence[tuple[int, int]] | None) -> list[Block] | None:
    """(start, stop) columns as blocks; None means one block."""
    return [Block(f"member{i}", start, stop) for i, (start, stop) in enumerate(spans)] if spans else None


def make_linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    """Weights (K, D) and biases (K,) as a layer of its own, D -> K."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype, device=weight.device)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


def check_folds(normalization: Normalization | Pca) -> None:
    """Raises ValueError when no linear layer on the raw features can hold the normalisation."""
    if not normalization.folds:
        raise ValueError(
            f"a head fitted with normalization {normalization.name!r} is not linear in the raw features. "
            "Fit with 'none', 'standard', 'block-rms' or 'pca:C' to get a layer."
        )
