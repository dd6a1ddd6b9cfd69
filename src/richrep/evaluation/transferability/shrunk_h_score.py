"""H-score with a shrunk covariance: defined and steady where there are few images for the features."""

from __future__ import annotations

import torch
from sklearn.covariance import ledoit_wolf

from richrep.evaluation.transferability.inputs import as_float64, class_mean_deviations


def shrunk_h_score(features: torch.Tensor, labels: torch.Tensor) -> float:
    """H-score with a shrunk covariance, for few images beside the features.

    tr(cov_a(f)⁻¹ (1 - a) cov(E[f|y])) of features (N, D) and labels (N,), a the shrinkage of Ledoit and Wolf.

    Source: Ibrahim, Ponomareva, Mazumder, Newer is not always better: Rethinking transferability metrics, their
    peculiarities, stability and performance, 2022, https://arxiv.org/abs/2110.06893, section 4; the shrinkage is of
    Ledoit, Wolf, A well-conditioned estimator for large-dimensional covariance matrices, 2004.
    """
    values = as_float64(features, labels)
    between = class_mean_deviations(values, labels)  # (K, D)
    covariance, shrinkage = ledoit_wolf((values - values.mean(0)).numpy(force=True), assume_centered=True)
    solved = torch.linalg.lstsq(torch.from_numpy(covariance).to(between), between.T).solution  # (D, K)
    return float((1 - shrinkage) * (solved.T * between).sum())
