"""Estimates of the Hessian that L-BFGS starts from: its diagonal, or its blocks of one class each."""

from __future__ import annotations

from typing import Protocol

import torch


class Preconditioner(Protocol):
    """An estimate H of A Hessians, each (P, P) and positive definite."""

    def solve(self, vectors: torch.Tensor) -> torch.Tensor:
        """H⁻¹·vectors, (A, P) -> (A, P)."""
        ...

    def keep(self, rows: torch.Tensor) -> Preconditioner:
        """The estimate for the problems `rows` (indices) alone."""
        ...


class Diagonal:
    """The diagonals (A, P), each entry > 0."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def solve(self, vectors: torch.Tensor) -> torch.Tensor:
        """Elementwise."""
        return vectors / self.values

    def keep(self, rows: torch.Tensor) -> Diagonal:
        """The chosen diagonals."""
        return Diagonal(self.values[rows])


class ClassBlocks:
    """Blocks (K, P/K, P/K) on the diagonal of one Hessian, shared by every problem, plus `diagonals` (K, P/K)."""

    def __init__(self, blocks: torch.Tensor, diagonals: torch.Tensor) -> None:
        summed = blocks.clone()
        diagonal = summed.diagonal(dim1=1, dim2=2)  # a view
        diagonal.add_(diagonals).mul_(1 + 100 * torch.finfo(blocks.dtype).eps)  # what rounding may have taken
        factors, failed = torch.linalg.cholesky_ex(summed)
        for k in failed.nonzero().flatten():
            factors[k] = diagonal[k].sqrt().diag()
        del summed, diagonal  # at most three copies of the blocks at any time
        self._inverses = torch.cholesky_inverse(factors)

    def solve(self, vectors: torch.Tensor) -> torch.Tensor:
        """By class."""
        classes, size, _ = self._inverses.shape
        rows = vectors.view(len(vectors), classes, size).transpose(0, 1)  # (K, A, P/K): row vectors are 10x faster
        return torch.bmm(rows, self._inverses).transpose(0, 1).reshape(len(vectors), -1)

    def keep(self, rows: torch.Tensor) -> ClassBlocks:
        """The same: the blocks are shared."""
        return self
