"""How much of a linear head's weight lies on each member."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from richrep.features.feature_set import FeatureSet
from richrep.features.rows import row_chunks

_CHUNK_ROWS = 4096


def block_importance(
    weights: torch.Tensor, blocks: Sequence[tuple[int, int]], *, sizes: Sequence[float]
) -> list[float]:
    """Mean absolute weight of each block's columns, averaged over the classes, times the size of its features.

    Args:
        weights: (K, D).
        blocks: (start, stop) columns of each.
        sizes: root-mean-square of each block's features: small features need large weights, and the product does not
            depend on the unit. All 1 gives the importance of the source.

    Source: TjuJianyu/RRL, feature_importance: I_b = (B/D) Σ_{j in b} (1/K) Σ_k |W_kj|. Differs: times the size, and
    blocks may be of unequal width (for equal ones D/B is the width, and the mean is theirs).
    """
    means = [weights[:, start:stop].abs().mean(dtype=torch.float64) for start, stop in blocks]
    return [float(mean) * size for mean, size in zip(means, sizes, strict=True)]


def sizes_per_image(members: Sequence[FeatureSet], rows: np.ndarray, *, together: bool) -> list[float]:
    """Root-mean-square of each member's features over `rows`, once those of every image are divided by their l2 norm.

    Args:
        together: by the norm over all members ("l2"), not by each member's own ("block-l2").
    """
    chosen = torch.as_tensor(rows)
    squares = [
        torch.cat(
            [
                chunk.to(torch.float64).square().sum(1)
                for _, chunk in row_chunks(member.features, chosen, chunk_rows=_CHUNK_ROWS)
            ]
        )
        for member in members
    ]
    whole = torch.stack(squares).sum(0)
    shares = [own / (whole if together else own).clamp(min=torch.finfo(torch.float64).tiny) for own in squares]
    return [float(share.mean() / member.feature_dim) ** 0.5 for share, member in zip(shares, members, strict=True)]
