"""H-score: how much of the features' variance lies between classes."""

from __future__ import annotations

import torch

from richrep.evaluation.transferability.inputs import (
    UndefinedScoreError,
    along_principal_directions,
    as_float64,
    one_hot,
)


def h_score(features: torch.Tensor, labels: torch.Tensor) -> float:
    """H-score: the features' variance between classes, beside all of it.

    tr(cov(f)⁻¹ cov(E[f|y])) of features (N, D) and labels (N,); in [0, K - 1]. A singular covariance is inverted on its
    range (columns that are constant or repeat others change nothing).

    Raises:
        UndefinedScoreError: the images span as many directions as there can be, N - 1. Then the score is K - 1 whatever
            the features are; `shrunk_h_score` is not.

    Source: Bao, Li, Huang, Zhang, Zheng, Zamir, Guibas, An Information-Theoretic Approach to Transferability in Task
    Transfer Learning, 2019, https://arxiv.org/abs/2212.10082.
    """
    values = as_float64(features, labels)
    targets = one_hot(labels)  # (N, K)
    eigenvalues, explained = along_principal_directions(values - values.mean(0), targets)
    if len(eigenvalues) >= len(values) - 1:
        raise UndefinedScoreError(
            f"{len(values)} images in {len(values) - 1} directions give {targets.shape[1] - 1} for any features. "
            "Use more images than features, or shrunk-h-score."
        )
    return float((explained / targets.sum(0)).sum())  # with X = U·S·Vᵀ the trace is Σ_k ‖Uᵀ1_k‖²/n_k
