"""Samples as the objective reads them, by the chunk: kept in the coordinates, or made from the features every time."""

from __future__ import annotations

from typing import Protocol

import torch

from richrep.features.normalize import Normalization
from richrep.features.rows import Rows
from richrep.heads.basis import ColumnBasis


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

    def to_coordinates(self, values: torch.Tensor) -> torch.Tensor:
        """Samples, or derivatives by the columns of a chunk, (A, C) -> (A, r) by the coordinates."""
        ...

    def to_columns(self, weights: torch.Tensor) -> torch.Tensor:
        """Weights (A, r) on the coordinates -> (A, C) on the columns of a chunk."""
        ...


class RotatedSamples:
    """Samples kept in the coordinates themselves, (N, r): C = r, nothing to map."""

    def __init__(self, values: torch.Tensor, *, max_values: int = 2**23) -> None:
        self.values, self.max_values = values, max_values
        (self.count, self.dim), self.dtype = values.shape, values.dtype

    def chunk(self, start: int, stop: int) -> torch.Tensor:
        """A view."""
        return self.values[start:stop]

    def to_coordinates(self, values: torch.Tensor) -> torch.Tensor:
        """As they are."""
        return values

    def to_columns(self, weights: torch.Tensor) -> torch.Tensor:
        """As they are."""
        return weights


class StreamedSamples:
    """Samples made by the chunk from the features, so that no second matrix of their size is needed: C = D."""

    def __init__(
        self, rows: Rows, normalization: Normalization, mean: torch.Tensor, basis: ColumnBasis, *, max_values: int
    ) -> None:
        self._rows, self._normalization = rows, normalization
        self._mean, self._basis = mean.to(rows.dtype), basis
        self.count, self.dim, self.dtype, self.max_values = len(rows), len(mean), rows.dtype, max_values

    def chunk(self, start: int, stop: int) -> torch.Tensor:
        """Normalised, centred features."""
        read = self._rows[start:stop]
        values = self._normalization.apply(read)
        return values - self._mean if values is read and self._rows.gives_views else values.sub_(self._mean)

    def to_coordinates(self, values: torch.Tensor) -> torch.Tensor:
        """In the basis."""
        return self._basis.to_coordinates(values)

    def to_columns(self, weights: torch.Tensor) -> torch.Tensor:
        """W·basisᵀ."""
        return self._basis.to_columns(weights)
