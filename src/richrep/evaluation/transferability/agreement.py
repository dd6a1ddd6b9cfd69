"""How well a score orders networks: rank correlation with what they truly reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scipy.stats import kendalltau, spearmanr, weightedtau

MIN_NETWORKS = 3  # two networks are in the right order or not: every rank correlation is +1 or -1


def rank_agreement(scores: Sequence[float], accuracies: Sequence[float]) -> dict[str, Any]:
    """Rank correlations of scores and accuracies of the same M networks, each in [-1, 1].

    Returns:
        num_networks; spearman; kendall (tau-b); weighted_kendall, in which networks near the top of either order count
        most. Where they are undefined they are None and `reason` says why.

    Source: scipy.stats; the weighted tau is what LogME and its successors report (Vigna, A Weighted Correlation Index
    for Rankings with Ties, 2015).
    """
    count = len(scores)
    reason = ""
    if count < MIN_NETWORKS:
        reason = f"{count} network{'s' if count != 1 else ''}, at least {MIN_NETWORKS} are needed"
    elif len(set(scores)) == 1:
        reason = "all networks have the same score"
    elif len(set(accuracies)) == 1:
        reason = "all networks have the same accuracy"
    if reason:
        return {"num_networks": count, "spearman": None, "kendall": None, "weighted_kendall": None, "reason": reason}
    return {
        "num_networks": count,
        "spearman": float(spearmanr(scores, accuracies).statistic),
        "kendall": float(kendalltau(scores, accuracies).statistic),
        "weighted_kendall": float(weightedtau(scores, accuracies).statistic),
    }
