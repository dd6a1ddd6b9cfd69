"""Nearest class mean: one prototype a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import nn

from richrep.errors import unknown_name_message
from richrep.features.normalize import Normalization, unit_rows
from richrep.features.pca import Pca, fit_named
from richrep.features.rows import Features, row_chunks
from richrep.heads.estimator import EstimatorHead, as_blocks, check_folds, make_linear
from richrep.heads.linear import mapped_logits

METRICS = {
    "euclidean": "the squared distance to the mean of the class",
    "cosine": "the angle to the mean of the class's features of length 1",
}


class PrototypesHead(EstimatorHead):
    """Softmax over the nearness to the class means; the prediction is the nearest mean.

    Snell, Swersky, Zemel, Prototypical Networks for Few-shot Learning, 2017, https://arxiv.org/abs/1703.05175, for the
    squared euclidean distance; with cosines, the mean of unit features is the weight that Gidaris, Komodakis, Dynamic
    Few-Shot Visual Learning without Forgetting, 2018, https://arxiv.org/abs/1804.09458, give a new class.

    Differs from the papers: frozen features, and a temperature that does not depend on their scale. The logits are
    -d²/(2·temperature·s²), up to what all classes share, with s² the mean squared distance of the training features
    from their mean; or cosine/temperature. It changes the probabilities, never the prediction.

    Args:
        metric: a key of METRICS.
        temperature: > 0; larger means less sure.
        normalization: a key of NORMALIZATIONS, "pca:C" or both, fitted on the training rows.
        blocks: (start, stop) columns of each backbone for the "block-…" normalisations; None means one block.

    Attributes:
        prototypes_: (K, D') means of the normalised features; of length 1 for cosine, 0 for a class without a row.
        weight_, bias_: (K, D'), (K,), the logits as a linear map of the normalised (for cosine: unit) features.
    """

    def __init__(
        self,
        metric: str = "euclidean",
        *,
        temperature: float = 0.1,
        normalization: str = "none",
        blocks: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self.metric = metric
        self.temperature = temperature
        self.normalization = normalization
        self.blocks = blocks

    def fit(self, X: Any, y: Any, *, num_classes: int | None = None) -> Self:
        """Averages features X (N, D) by their labels y (N,); K is `num_classes`, or counted from the labels.

        Raises:
            FeatureError: features of the wrong shape, or not finite.
            ValueError: labels out of range or of fewer than two classes; a bad `metric` or `temperature`.
        """
        if self.metric not in METRICS:
            raise ValueError(unknown_name_message("metric", self.metric, METRICS))
        if not self.temperature > 0:
            raise ValueError(f"temperature must be > 0, got {self.temperature}.")
        features, labels = self._read_training(X, y, num_classes)
        fitted = fit_named(self.normalization, features, blocks=as_blocks(self.blocks))
        unit = self.metric == "cosine"
        means, counts, scatter = class_means(features, labels, len(self.classes_), fitted, unit=unit)
        if unit:
            means, bias, scale = unit_rows(means), means.new_zeros(len(means)), self.temperature
        else:
            bias, scale = -means.square().sum(1) / 2, self.temperature * (scatter or 1.0)  # scatter 0: all alike
        dtype = torch.promote_types(features.dtype, torch.float32)
        self.prototypes_, self.weight_ = means.to(dtype), (means / scale).to(dtype)
        self.bias_ = (bias / scale).masked_fill(counts == 0, -torch.inf).to(dtype)
        self.normalization_ = fitted
        return self

    def logits(self, X: Any) -> torch.Tensor:
        """Scores (N, K) of features (N, D); -inf for a class never seen."""
        features, apply = self._read_features(X), self.normalization_.apply
        if self.metric == "cosine":
            return mapped_logits(features, self.weight_, self.bias_, lambda chunk: unit_rows(apply(chunk)))
        return mapped_logits(features, self.weight_, self.bias_, apply)

    def to_linear(self) -> nn.Linear:
        """The head as a layer (D -> K) on the raw features, where fine-tuning starts.

        Raises:
            ValueError: for cosine, and after "l2" and "block-l2", which no linear layer can hold.
        """
        self._check_fitted()
        if self.metric == "cosine":
            raise ValueError(
                "cosine prototypes are not linear in the raw features. Use metric='euclidean' for a layer."
            )
        check_folds(self.normalization_)
        return make_linear(*self.normalization_.fold(self.weight_, self.bias_))


def class_means(
    features: Features,
    labels: torch.Tensor,
    num_classes: int,
    normalization: Normalization | Pca,
    *,
    unit: bool,
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Means (K, D') float64 of the normalised features, rows a class (K,), and the features' scatter.

    The scatter is the mean squared distance from the overall mean. A class without a row has mean 0. With `unit` the
    features are divided by their length first.
    """
    dtype = torch.promote_types(features.dtype, torch.float32)
    sums: torch.Tensor | None = None
    squares = 0.0
    for start, chunk in row_chunks(features, None, chunk_rows=max(1, 2**20 // features.shape[1])):
        values = normalization.apply(chunk.to(dtype))
        values = (unit_rows(values) if unit else values).to(torch.float64)
        if sums is None:
            sums = values.new_zeros(num_classes, values.shape[1])
            origin = values.mean(0)  # sums around it cost a large common offset no digits
        values = values - origin
        sums.index_add_(0, labels[start : start + len(chunk)], values)
        squares += float(values.square().sum())
    assert sums is not None
    counts = torch.bincount(labels, minlength=num_classes)
    shift = sums.sum(0) / len(labels)
    scatter = max(0.0, squares / len(labels) - float(shift.square().sum()))
    means = sums / counts.clamp(min=1)[:, None] + origin
    return means.masked_fill_((counts == 0)[:, None], 0.0), counts, scatter
