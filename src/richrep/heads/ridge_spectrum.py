"""Ridge regression in the eigenvectors of a Gram matrix, where every penalty is a division.

With X the centred features, Y the centred targets and XᵀX/N = V·diag(s)·Vᵀ, the weights of the objective
`(1/N) Σ ½‖y - Wx‖² + (l2/2)·‖W‖²` are V·(VᵀXᵀY/N)/(s + l2). For N < D the same s and V come from the smaller
XXᵀ/N = U·diag(s)·Uᵀ: V = XᵀU/√(N·s).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from richrep.features.gram import take_apart


@dataclass(frozen=True, eq=False)
class RidgeSpectrum:
    """A ridge problem in the eigenvectors V (D, r) of XᵀX/N.

    Attributes:
        values: (r,) eigenvalues s >= 0.
        vectors: V (D, r) by columns, U (N, r) by samples.
        slopes: (r, K), VᵀXᵀY/N.
    """

    values: torch.Tensor
    vectors: torch.Tensor
    slopes: torch.Tensor

    def weights(self, l2s: torch.Tensor) -> torch.Tensor:
        """(L, r, K) weights on the eigenvectors for L penalties."""
        return self.slopes / (self.values + l2s[:, None])[..., None]

    def leave_one_out(
        self, coordinates: torch.Tensor, targets: torch.Tensor, target_mean: torch.Tensor, l2s: torch.Tensor, total: int
    ) -> torch.Tensor:
        """(L, B, K) logits of training rows by the heads fitted without them, one row at a time; exact, no refit.

        Leaving row i out turns its residual e into e/(1 - h), h = 1/N + Σ_j (XV)²_ij/(N·(s_j + l2)) its leverage.

        Args:
            coordinates: XV (B, r) of the rows; targets: (B, K) as they are; target_mean: (K,).
            total: N.

        Source: Hastie, Tibshirani, Friedman, The Elements of Statistical Learning, 2009, section 7.10 (equation 7.64).
        """
        fitted = target_mean + coordinates @ self.weights(l2s)  # (L, B, K)
        shares = 1 / (total * (self.values + l2s[:, None]))  # (L, r)
        leverage = 1 / total + coordinates.square() @ shares.T  # (B, L)
        floor = torch.finfo(coordinates.dtype).eps  # 1 - h is 0 where a row is fitted whatever it says
        return targets - (targets - fitted) / (1 - leverage.T).clamp(min=floor)[..., None]


def spectrum_of_columns(gram: torch.Tensor, slopes: torch.Tensor) -> RidgeSpectrum:
    """From XᵀX/N (D, D), which is used up, and XᵀY/N (D, K)."""
    values, vectors = take_apart(gram)
    return RidgeSpectrum(values.clamp_(min=0), vectors, vectors.T @ slopes)


def spectrum_of_samples(gram: torch.Tensor, targets: torch.Tensor) -> RidgeSpectrum:
    """From XXᵀ/N (N, N), which is used up, and the centred targets Y (N, K)."""
    total = len(gram)
    values, vectors = take_apart(gram)
    # Directions the rows do not span (the mean, equal rows) come out as rounding, and dividing by their length would
    # make weights of it.
    kept = values > total * torch.finfo(gram.dtype).eps * values[-1].clamp(min=0)
    values, vectors = values[kept], vectors[:, kept]
    return RidgeSpectrum(values, vectors, (values / total).sqrt()[:, None] * (vectors.T @ targets))
