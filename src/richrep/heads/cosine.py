"""Cosine softmax: a linear head in which neither the length of the features nor that of the weights counts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import scipy.optimize
import torch
from sklearn.exceptions import ConvergenceWarning

from richrep.features.normalize import Normalization, unit_rows
from richrep.features.pca import Pca, fit_named
from richrep.features.rows import Features, row_chunks
from richrep.heads.estimator import EstimatorHead, as_blocks
from richrep.heads.linear import mapped_logits
from richrep.heads.prototypes import class_means
from richrep.heads.softmax import cross_entropy_and_residual_


class CosineHead(EstimatorHead):
    """Softmax of cosine(x, w_k)/temperature, the directions w_k trained by cross-entropy.

    Gidaris, Komodakis, Dynamic Few-Shot Visual Learning without Forgetting, 2018, https://arxiv.org/abs/1804.09458; as
    the "Baseline++" of Chen, Liu, Kira, Wang, Huang, A Closer Look at Few-shot Classification, 2019,
    https://arxiv.org/abs/1904.04232. The lengths being fixed, the temperature is what regularises: larger is smoother.

    Differs from the papers: frozen features and the whole training set at a time, so L-BFGS instead of SGD, started
    from the class means, which are the weights Gidaris and Komodakis give a new class. No random numbers. The problem
    is not convex in the directions; from that start the result is reproducible and never worse than the means.

    Args:
        temperature: > 0; t-ReX trains with 0.1.
        normalization: a key of NORMALIZATIONS, "pca:C" or both, fitted on the training rows, before the cosine.
        blocks: (start, stop) columns of each backbone for the "block-…" normalisations; None means one block.
        tol: relative decrease of the loss at which fitting stops.
        max_iter: iterations at most, >= 1.

    Attributes:
        weight_: (K, D') directions of length 1 on the normalised features; 0 for a class without a row.
        bias_: (K,), 0, and -inf for a class without a row.
        loss_: mean cross-entropy reached; n_iter_: iterations; converged_: whether `max_iter` sufficed.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        normalization: str = "none",
        blocks: Sequence[tuple[int, int]] | None = None,
        tol: float = 1e-6,
        max_iter: int = 500,
    ) -> None:
        self.temperature = temperature
        self.normalization = normalization
        self.blocks = blocks
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any, *, num_classes: int | None = None) -> Self:
        """Learns from features X (N, D) and labels y (N,); K is `num_classes`, or counted from the labels.

        Raises:
            FeatureError: features of the wrong shape, or not finite.
            ValueError: labels out of range or of fewer than two classes; a bad `temperature` or `max_iter`.
        """
        if not self.temperature > 0 or self.max_iter < 1:
            raise ValueError(
                "temperature must be > 0 and max_iter at least 1, "
                f"got temperature={self.temperature}, max_iter={self.max_iter}."
            )
        features, labels = self._read_training(X, y, num_classes)
        fitted = fit_named(self.normalization, features, blocks=as_blocks(self.blocks))
        means, counts, _ = class_means(features, labels, len(self.classes_), fitted, unit=True)
        present, dense = torch.unique(labels, return_inverse=True)
        start = _directions(means[present])
        loss = _Loss(features, dense, fitted, temperature=self.temperature, shape=start.shape)
        options = {"maxiter": self.max_iter, "ftol": self.tol, "gtol": 0.0, "maxcor": 20}
        found = scipy.optimize.minimize(
            loss, start.flatten().cpu().numpy(), jac=True, method="L-BFGS-B", options=options
        )
        self.loss_, self.n_iter_ = float(found.fun), int(found.nit)
        self.converged_ = found.nit < self.max_iter
        if not self.converged_:
            warnings.warn(
                f"cosine softmax with temperature = {self.temperature:g} did not converge in {self.max_iter} "
                "iterations. Raise max_iter, or temperature.",
                ConvergenceWarning,
                stacklevel=2,
            )
        best = _directions(torch.from_numpy(found.x).to(means).view_as(start))
        self.weight_ = torch.zeros_like(means).index_copy_(0, present, best).to(loss.dtype)
        self.bias_ = self.weight_.new_zeros(len(means)).masked_fill_(counts == 0, -torch.inf)
        self.normalization_ = fitted
        return self

    def logits(self, X: Any) -> torch.Tensor:
        """Scores (N, K) of features (N, D), cosine/temperature; -inf for a class never seen."""
        features, apply = self._read_features(X), self.normalization_.apply
        weight = self.weight_ / self.temperature
        return mapped_logits(features, weight, self.bias_, lambda chunk: unit_rows(apply(chunk)))


class _Loss:
    """Mean cross-entropy and its slope by the weights (K, D'), flat, in which only their directions count."""

    def __init__(
        self,
        features: Features,
        labels: torch.Tensor,
        normalization: Normalization | Pca,
        *,
        temperature: float,
        shape: tuple[int, ...],
    ) -> None:
        self._features, self._labels, self._normalization = features, labels, normalization
        self._temperature, self._shape = temperature, shape
        self._chunk_rows = max(1, 2**21 // max(*shape, features.shape[1]))
        self.dtype = torch.promote_types(features.dtype, torch.float32)

    def __call__(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = torch.from_numpy(flat).to(self._features.device).view(self._shape)
        lengths = weights.norm(dim=1, keepdim=True)
        units = weights / lengths
        total, slope = 0.0, torch.zeros_like(units)
        for first, chunk in row_chunks(self._features, None, chunk_rows=self._chunk_rows):
            rows = unit_rows(self._normalization.apply(chunk.to(self.dtype)))  # (B, D')
            logits = (units.to(self.dtype) @ rows.T).div_(self._temperature)[None]  # (1, K, B)
            losses = cross_entropy_and_residual_(logits, self._labels[first : first + len(chunk)])
            total += float(losses.sum(dtype=torch.float64))
            slope += logits[0] @ rows  # logits hold the residuals now
        slope -= (slope * units).sum(1, keepdim=True) * units  # along the sphere
        count = len(self._labels)
        return total / count, (slope / (self._temperature * count * lengths)).flatten().cpu().numpy()


def _directions(vectors: torch.Tensor) -> torch.Tensor:
    """Rows of length 1; a row of zeros has no direction and gets that of all columns alike."""
    return unit_rows(torch.where((vectors == 0).all(1, keepdim=True), 1.0, vectors))
