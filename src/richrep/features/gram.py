"""Gram matrices of features, by blocks in bounded memory: by samples (N, N), and by columns across members.

Both kinds add under concatenation. By samples the Gram matrix of a concatenation is the sum of its members'; by columns
it is the submatrix of their columns in the Gram matrix of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import scipy.linalg
import torch

from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.features.normalize import Normalization, centred_chunks
from richrep.features.rows import Rows


def sample_gram(
    rows: Rows, *, normalization: Normalization, mean: torch.Tensor, memory: MemoryBudget = FRUGAL
) -> torch.Tensor:
    """(N, N) float64: products of the normalised rows with `mean` taken off, by pairs of chunks of the rows.

    Args:
        mean: (D,) float64, of the normalised features.
        memory: decides how large the chunks are.
    """
    total = len(rows)
    gram = torch.empty(total, total, dtype=torch.float64, device=rows.device)
    step = max(1, memory.pair_values // rows.shape[1])
    for start, left in centred_chunks(rows, normalization, mean, chunk_rows=step):
        here = slice(start, start + len(left))
        gram[here, here] = left @ left.T
        for offset, right in centred_chunks(rows, normalization, mean, chunk_rows=step, first=start + len(left)):
            there = slice(offset, offset + len(right))
            gram[here, there] = left @ right.T
            gram[there, here] = gram[here, there].T
    return gram


def take_apart(gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues (D,), smallest first, and eigenvectors as columns (D, D) of a symmetric matrix.

    Overwrites its input on the CPU: its memory becomes the eigenvectors' (LAPACK's divide and conquer in place, which
    takes twice as much again for its work).
    """
    if gram.device.type != "cpu":
        values, vectors = torch.linalg.eigh(gram)
        return values, vectors
    found = scipy.linalg.eigh(gram.numpy().T, overwrite_a=True, check_finite=False, driver="evd")
    return torch.from_numpy(found[0]), torch.from_numpy(found[1])


def column_gram(members: Sequence[torch.Tensor]) -> torch.Tensor:
    """(P, P), P = D1 + D2 + …: products of all columns of centred members (N, D1), (N, D2), …, over N."""
    edges = [0, *accumulate(member.shape[1] for member in members)]
    gram = members[0].new_zeros(edges[-1], edges[-1])
    for i, one in enumerate(members):
        for j, other in enumerate(members[: i + 1]):
            block = (one.T @ other).div_(len(one))
            gram[edges[i] : edges[i + 1], edges[j] : edges[j + 1]] = block
            gram[edges[j] : edges[j + 1], edges[i] : edges[i + 1]] = block.T
    return gram


def cka_of_columns(gram: torch.Tensor, edges: Sequence[int]) -> torch.Tensor:
    """Linear CKA (M, M) of M members, in [0, 1], from the Gram matrix (P, P) of all their centred columns.

    ‖X_iᵀX_j‖² / (‖X_iᵀX_i‖·‖X_jᵀX_j‖), Frobenius norms.

    Args:
        edges: (M + 1) positions at which the members' columns begin and end.

    Source: Kornblith, Norouzi, Lee, Hinton, Similarity of Neural Network Representations Revisited, 2019, section 3,
    https://arxiv.org/abs/1905.00414.
    """
    spans = list(pairwise(edges))
    powers = [[gram[a:b, c:d].to(torch.float64).square().sum() for c, d in spans] for a, b in spans]
    return _normalized(torch.tensor(powers, dtype=torch.float64))


def cka_of_samples(grams: torch.Tensor) -> torch.Tensor:
    """The same from the Gram matrices (M, N, N) of the members' centred rows."""
    flat = grams.flatten(1).to(torch.float64)
    return _normalized(flat @ flat.T)


def _normalized(products: torch.Tensor) -> torch.Tensor:
    """Products (M, M) over the lengths; 0 where a member is constant, but for rounding of what was centred."""
    lengths = products.diagonal().clamp(min=0).sqrt()
    return (products / (lengths * lengths[:, None]).masked_fill_(lengths * lengths[:, None] == 0, 1.0)).clamp_(min=0)
