"""Linear CKA to the labels: how alike the images look to the features and to their classes."""

from __future__ import annotations

import torch

from richrep.evaluation.transferability.inputs import as_float64, one_hot


def label_cka(features: torch.Tensor, labels: torch.Tensor) -> float:
    """Linear CKA of the features to the labels.

    ‖YᵀX‖²/(‖XᵀX‖·‖YᵀY‖), Frobenius norms, of centred features X (N, D) and centred one-hot labels Y (N, K); in [0, 1].

    Source: Kornblith, Norouzi, Lee, Hinton, Similarity of Neural Network Representations Revisited, 2019,
    https://arxiv.org/abs/1905.00414, with linear kernels; against labels it is the centred kernel alignment of Cortes,
    Mohri, Rostamizadeh, Algorithms for Learning Kernels Based on Centered Alignment, 2012,
    https://arxiv.org/abs/1203.0550.
    """
    values = as_float64(features, labels)
    x, y = values - values.mean(0), one_hot(labels)
    y = y - y.mean(0)
    own = x.T @ x if x.shape[1] <= len(x) else x @ x.T
    return float((y.T @ x).square().sum() / (own.norm() * (y.T @ y).norm()))
