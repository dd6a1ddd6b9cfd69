"""Coordinates in which the logistic objective is well conditioned for every penalty at once.

Böhning (1992): the Hessian of the mean cross-entropy is at most ½(I - 11ᵀ/K) ⊗ S, S the Gram matrix of the centred
features over N. In the eigenvectors of S, with coordinate j scaled by 1/√(s_j/2 + l2), the Hessian of the whole
objective is at most the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import scipy.linalg
import torch

from richrep.features.normalize import Moments, Normalization, moments, row_chunks


class Samples(Protocol):
    """N centred samples, read by the chunk as (B, C); the weights of a head live on r coordinates.

    Attributes:
        count: N; dim: C, the columns of a chunk; dtype: of everything.
        max_values: how many values a chunk should have at most, for the copies that are made of it.
    """

    count: int
    dim: int
    max_values: int
    dtype: torch.dtype

    def chunk(self, start: int, stop: int) -> torch.Tensor:
        """Samples (B, C)."""
        ...

    def squares(self, chunk: torch.Tensor) -> torch.Tensor:
        """Squared coordinates (B, r) of a chunk (B, C)."""
        ...

    def to_columns(self, weights: torch.Tensor) -> torch.Tensor:
        """Weights (M, r) on the coordinates -> (M, C) on the columns of a chunk."""
        ...

    def from_columns(self, slopes: torch.Tensor) -> torch.Tensor:
        """Derivatives (M, C) by the columns -> (M, r) by the coordinates."""
        ...


class RotatedSamples:
    """Samples kept in the coordinates themselves, (N, r): C = r, nothing to map."""

    max_values = 2**23

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values
        (self.count, self.dim), self.dtype = values.shape, values.dtype

    def chunk(self, start: int, stop: int) -> torch.Tensor:
        """A view."""
        return self.values[start:stop]

    def squares(self, chunk: torch.Tensor) -> torch.Tensor:
        """Elementwise."""
        return chunk.square()

    def to_columns(self, weights: torch.Tensor) -> torch.Tensor:
        """As they are."""
        return weights

    def from_columns(self, slopes: torch.Tensor) -> torch.Tensor:
        """As they are."""
        return slopes


class StreamedSamples:
    """Samples made by the chunk from the features, so that no second matrix of their size is needed: C = D."""

    max_values = 2**21

    def __init__(
        self,
        features: torch.Tensor,
        rows: torch.Tensor | None,
        normalization: Normalization,
        mean: torch.Tensor,
        basis: torch.Tensor,
    ) -> None:
        self._features, self._rows, self._normalization = features, rows, normalization
        self._mean, self._basis = mean.to(features), basis  # (D,), (D, r)
        self.count = len(features) if rows is None else len(rows)
        self.dim, self.dtype = features.shape[1], features.dtype

    def chunk(self, start: int, stop: int) -> torch.Tensor:
        """Normalised, centred features."""
        chosen = self._features[start:stop] if self._rows is None else self._features[self._rows[start:stop]]
        return self._normalization.apply(chosen) - self._mean

    def squares(self, chunk: torch.Tensor) -> torch.Tensor:
        """Of the chunk in the basis."""
        return (chunk @ self._basis).square_()

    def to_columns(self, weights: torch.Tensor) -> torch.Tensor:
        """W·basisᵀ."""
        return weights @ self._basis.T

    def from_columns(self, slopes: torch.Tensor) -> torch.Tensor:
        """G·basis."""
        return slopes @ self._basis


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Centred features in an orthogonal basis of their row space.

    Attributes:
        samples: the centred, normalised features, to be read by the chunk.
        spectrum: (r,) float64, mean square of each coordinate.
        mean: (D,) float64, mean of the normalised features.
        basis: (D, r), or with `is_dual` (N, r) such that basis of the features = Xᵀ·basis.
        is_dual: whether the basis is given by the samples (N < D) rather than by the columns.
    """

    samples: Samples
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
    max_rotated_bytes: int = 2**26,
) -> Coordinates:
    """From the Gram matrix of the columns, (D, D); for N >= D.

    Args:
        stats: moments of the normalised features; on the CPU their Gram matrix is used up.
        threshold: see `_eigh_kept`.
        max_rotated_bytes: up to this size the features are kept a second time, rotated: fewer products an iteration,
            and directions of tiny variance keep all their digits. Above it they are streamed.
    """
    assert stats.gram is not None
    spectrum, vectors = _eigh_kept(stats.gram, threshold=threshold)
    basis = vectors.to(features.dtype)
    if stats.num_rows * len(spectrum) * features.element_size() > max_rotated_bytes:
        samples = StreamedSamples(features, rows, normalization, stats.mean, basis)
        return Coordinates(samples, spectrum, stats.mean, basis, is_dual=False)
    rotated = torch.empty(stats.num_rows, len(spectrum), dtype=features.dtype, device=features.device)
    for start, chunk in row_chunks(features, rows, chunk_rows=max(1, 2**20 // features.shape[1])):
        centred = normalization.apply(chunk).to(torch.float64) - stats.mean
        rotated[start : start + len(chunk)] = centred @ vectors  # float64: small directions keep their digits
    return Coordinates(RotatedSamples(rotated), spectrum, stats.mean, basis, is_dual=False)


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
    return Coordinates(RotatedSamples(rotated), spectrum, stats.mean, vectors / lengths, is_dual=True)


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
