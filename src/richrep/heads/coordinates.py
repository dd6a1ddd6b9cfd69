"""Coordinates in which the logistic objective is well conditioned for every penalty at once.

Böhning (1992): the Hessian of the mean cross-entropy is at most ½(I - 11ᵀ/K) ⊗ S, S the Gram matrix of the centred
features over N. In the eigenvectors of S, with coordinate j scaled by 1/√(s_j/2 + l2), the Hessian of the whole
objective is at most the identity.
"""

from __future__ import annotations

from dataclasses import dataclass

import scipy.linalg
import torch

from richrep.features.normalize import Moments, Normalization, moments, row_chunks


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Centred features in an orthogonal basis of their row space.

    Attributes:
        rows: (N, r), the centred, normalised features in the basis.
        spectrum: (r,) float64, mean square of each coordinate.
        mean: (D,) float64, mean of the normalised features.
        basis: (D, r), or with `is_dual` (N, r) such that basis of the features = Xᵀ·basis.
        is_dual: whether the basis is given by the samples (N < D) rather than by the columns.
    """

    rows: torch.Tensor
    spectrum: torch.Tensor
    mean: torch.Tensor
    basis: torch.Tensor
    is_dual: bool


# Below the penalty a direction moves the logits in proportion to its eigenvalue, so where all are below, what is this
# much smaller than the largest cannot change a prediction.
_INVISIBLE = 1e-6


def _eigh_kept(
    symmetric: torch.Tensor, *, threshold: float, rounding: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues worth keeping, smallest first, with their eigenvectors as columns.

    Dropped is what lies below `threshold` (too little to lower the objective) and is `_INVISIBLE` beside the largest,
    and what lies below `rounding` times the largest.

    Overwrites its input on the CPU: its memory becomes the eigenvectors' (LAPACK's divide and conquer in place).
    """
    if symmetric.device.type == "cpu":
        values_np, vectors_np = scipy.linalg.eigh(
            symmetric.numpy().T, overwrite_a=True, check_finite=False, driver="evd"
        )
        values, vectors = torch.from_numpy(values_np), torch.from_numpy(vectors_np)
    else:
        values, vectors = torch.linalg.eigh(symmetric)
    largest = max(float(values[-1]), 0.0)
    kept = int((values > max(min(threshold, _INVISIBLE * largest), rounding * largest)).sum())
    return values[len(values) - kept :], vectors[:, len(values) - kept :]  # a view: nothing is copied


def primal_coordinates(
    features: torch.Tensor,
    rows: torch.Tensor | None,
    *,
    stats: Moments,
    normalization: Normalization,
    threshold: float,
) -> Coordinates:
    """From the Gram matrix of the columns, (D, D); for N >= D.

    `stats` are of the normalised features; on the CPU their Gram matrix is used up.
    """
    assert stats.gram is not None
    spectrum, vectors = _eigh_kept(stats.gram, threshold=threshold)
    rotated = torch.empty(stats.num_rows, len(spectrum), dtype=features.dtype, device=features.device)
    for start, chunk in row_chunks(features, rows, chunk_rows=max(1, 2**20 // features.shape[1])):
        centred = normalization.apply(chunk).to(torch.float64) - stats.mean
        rotated[start : start + len(chunk)] = centred @ vectors  # float64: small directions keep their digits
    return Coordinates(rotated, spectrum, stats.mean, vectors.to(features.dtype), is_dual=False)


def dual_coordinates(
    features: torch.Tensor,
    rows: torch.Tensor | None,
    *,
    normalization: Normalization,
    threshold: float,
) -> Coordinates:
    """From the Gram matrix of the samples, (N, N); for N < D. The optimum lies in the row space, so this is exact."""
    stats = moments(features, rows, with_gram=False, normalization=normalization)
    total = stats.num_rows
    gram = torch.zeros(total, total, dtype=torch.float64, device=features.device)
    selected = normalization.apply(features if rows is None else features[rows])
    for start in range(0, features.shape[1], max(1, 2**21 // total)):
        stop = start + max(1, 2**21 // total)
        columns = selected[:, start:stop].to(torch.float64) - stats.mean[start:stop]
        gram.addmm_(columns, columns.T)
    # Directions the rows do not span (the mean, equal rows) come out as rounding, and dividing by their length below
    # would make weights of it.
    rounding = total * torch.finfo(gram.dtype).eps
    spectrum, vectors = _eigh_kept(gram.div_(total), threshold=threshold, rounding=rounding)
    lengths = (total * spectrum).sqrt()
    rotated = (vectors * lengths).to(features.dtype)  # (N, r)
    return Coordinates(rotated, spectrum, stats.mean, vectors / lengths, is_dual=True)


def to_columns(
    coordinates: Coordinates,
    weights: torch.Tensor,
    features: torch.Tensor,
    rows: torch.Tensor | None,
    normalization: Normalization,
) -> torch.Tensor:
    """Weights (M, r) on the coordinates -> weights (M, D) float64 on the normalised features."""
    if not coordinates.is_dual:
        return (weights @ coordinates.basis.T).to(torch.float64)
    on_samples = weights.to(torch.float64) @ coordinates.basis.T  # (M, N)
    columns = torch.zeros(len(weights), features.shape[1], dtype=torch.float64, device=features.device)
    for start, chunk in row_chunks(features, rows, chunk_rows=max(1, 2**20 // features.shape[1])):
        centred = normalization.apply(chunk).to(torch.float64) - coordinates.mean
        columns += on_samples[:, start : start + len(chunk)] @ centred
    return columns
