"""What every transferability score needs of features, probabilities and labels."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from richrep.errors import RichrepError
from richrep.heads.head import check_features, check_labels


class UndefinedScoreError(RichrepError):
    """A score that these features or labels do not define; the message says why."""


def as_float64(values: torch.Tensor, labels: torch.Tensor, *, may_be_alike: bool = False) -> torch.Tensor:
    """Features or probabilities (N, D) in float64, checked against labels (N,).

    Args:
        may_be_alike: the score is defined for values that are the same for every image.

    Raises:
        FeatureError: values of the wrong shape, or not finite.
        UndefinedScoreError: one class alone, no class with two images, or values that are alike and may not be.
    """
    check_features(values)
    check_labels(labels, num_rows=len(values), num_classes=max(2, int(labels.max()) + 1))
    num_classes = len(torch.unique(labels))
    if num_classes < 2:
        raise UndefinedScoreError("all images are of one class; two are needed.")
    if len(labels) <= num_classes:
        raise UndefinedScoreError(f"{len(labels)} images of {num_classes} classes: some class needs two images.")
    if not may_be_alike and bool((values == values[0]).all()):
        raise UndefinedScoreError("the features are the same for every image.")
    return values.to(torch.float64)


def one_hot(labels: torch.Tensor) -> torch.Tensor:
    """Classes that are there as columns (N, K) float64."""
    _, dense = torch.unique(labels, return_inverse=True)
    return F.one_hot(dense).to(torch.float64)


def along_principal_directions(values: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How much of each target lies along each direction of the rows.

    With values = U·diag(√s)·Vᵀ: the eigenvalues s (r,) of their Gram matrix, without those that are rounding, and
    (Uᵀ·targets)² (r, K). From the Gram matrix of the columns, or of the rows where they are fewer.
    """
    by_columns = values.shape[1] <= len(values)
    gram = values.T @ values if by_columns else values @ values.T
    eigenvalues, vectors = torch.linalg.eigh(gram)
    kept = eigenvalues > max(values.shape) * torch.finfo(torch.float64).eps * eigenvalues[-1]
    eigenvalues, vectors = eigenvalues[kept], vectors[:, kept]
    if not by_columns:
        return eigenvalues, (vectors.T @ targets).square()
    return eigenvalues, (vectors.T @ (values.T @ targets)).square() / eigenvalues[:, None]


def class_mean_deviations(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(K, D): mean of each class minus the overall mean, times √(n_k/N); its Gram matrix is cov(E[f|y]) with 1/N."""
    indicators = one_hot(labels)
    counts = indicators.sum(0)
    means = (indicators.T @ (features - features.mean(0))) / counts[:, None]
    return means * (counts / len(labels)).sqrt()[:, None]
