"""Logits of a linear head, by blocks of rows."""

from __future__ import annotations

from collections.abc import Callable

import torch

from richrep.features.normalize import Normalization
from richrep.features.pca import Pca
from richrep.features.rows import Features, as_rows

Linear = tuple[torch.Tensor, torch.Tensor]  # weights (K, D), biases (K,)

_CHUNK_VALUES = 2**22  # features, or logits, at once


def linear_logits(
    features: Features, weights: torch.Tensor, biases: torch.Tensor, normalization: Normalization | Pca
) -> torch.Tensor:
    """Scores (N, K) of features (N, D) under weights (K, D) and biases (K,), computed in their type.

    The weights act on the raw features where `normalization` folds, else on its output.
    """
    return mapped_logits(
        features, weights, biases, (lambda chunk: chunk) if normalization.folds else normalization.apply
    )


def mapped_logits(
    features: Features, weights: torch.Tensor, biases: torch.Tensor, apply: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Scores (N, K) of features (N, D) that `apply` turns, by the chunk, into what weights (K, D') act on."""
    rows = as_rows(features)
    logits = torch.empty(len(rows), len(biases), dtype=weights.dtype, device=weights.device)
    step = max(1, _CHUNK_VALUES // max(rows.shape[1], len(biases)))
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step].to(weights)  # half precision would overflow in the norms
        torch.addmm(biases, apply(chunk), weights.T, out=logits[start : start + step])
    return logits


def linear_predictions(
    features: Features, weights: torch.Tensor, biases: torch.Tensor, normalization: Normalization | Pca
) -> torch.Tensor:
    """The class of largest logit of each row (N,), without holding all logits; arguments as of `linear_logits`."""
    rows = as_rows(features)
    step = max(1, _CHUNK_VALUES // max(rows.shape[1], len(biases)))
    index = torch.arange(len(rows), device=rows.device)
    chunks = [rows.take(index[start : start + step]) for start in range(0, len(rows), step)]
    return torch.cat([linear_logits(chunk, weights, biases, normalization).argmax(1) for chunk in chunks])
