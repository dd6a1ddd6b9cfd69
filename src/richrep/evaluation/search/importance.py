"""How much of a linear head's weight lies on each member."""

from __future__ import annotations

from collections.abc import Sequence

import torch


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
