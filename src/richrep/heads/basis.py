"""Orthonormal directions of the features, given by the columns or, where there are fewer of them, by the samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from richrep.features.normalize import Normalization, centred_chunks
from richrep.features.rows import Rows


class ColumnBasis:
    """Directions given by the columns: for each span [start, stop) vectors (stop - start, r_b), side by side."""

    def __init__(self, spans: Sequence[tuple[int, int]], vectors: Sequence[torch.Tensor]) -> None:
        self._spans, self._vectors = tuple(spans), tuple(vectors)
        self._ranks = [block.shape[1] for block in vectors]

    def to(self, dtype: torch.dtype) -> ColumnBasis:
        """The same in another type."""
        return ColumnBasis(self._spans, [vectors.to(dtype) for vectors in self._vectors])

    def to_columns(self, weights: torch.Tensor) -> torch.Tensor:
        """Weights (A, r) on the coordinates -> (A, D) on the columns: W·basisᵀ."""
        if len(self._spans) == 1:
            return weights @ self._vectors[0].T
        columns = weights.new_empty(len(weights), self._spans[-1][1])
        parts = torch.split(weights, self._ranks, dim=1)
        for (start, stop), part, vectors in zip(self._spans, parts, self._vectors, strict=True):
            columns[:, start:stop] = part @ vectors.T
        return columns

    def to_coordinates(self, values: torch.Tensor) -> torch.Tensor:
        """Features, or derivatives by the columns, (A, D) -> (A, r): X·basis."""
        if len(self._spans) == 1:
            return values @ self._vectors[0]
        coordinates = values.new_empty(len(values), sum(self._ranks))
        parts = torch.split(coordinates, self._ranks, dim=1)  # views
        for (start, stop), part, vectors in zip(self._spans, parts, self._vectors, strict=True):
            part.copy_(values[:, start:stop] @ vectors)
        return coordinates


class SampleBasis:
    """Directions given by the samples (N < D): basis of the columns = Xᵀ·vectors, vectors (N, r), X centred."""

    def __init__(self, rows: Rows, normalization: Normalization, mean: torch.Tensor, vectors: torch.Tensor) -> None:
        self._rows, self._normalization, self._mean, self._vectors = rows, normalization, mean, vectors

    def to_columns(self, weights: torch.Tensor) -> torch.Tensor:
        """Weights (A, r) on the coordinates -> (A, D) float64 on the columns, in one reading of the features."""
        on_samples = weights.to(torch.float64) @ self._vectors.T  # (A, N)
        columns = on_samples.new_zeros(len(weights), len(self._mean))
        for start, centred in centred_chunks(self._rows, self._normalization, self._mean):
            columns += on_samples[:, start : start + len(centred)] @ centred
        return columns
