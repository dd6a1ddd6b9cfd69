"""k nearest neighbours by cosine: nothing is learned, the training images vote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch

from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.features.normalize import Normalization, unit_rows
from richrep.features.pca import Pca, fit_named
from richrep.features.rows import Features, as_rows
from richrep.heads.estimator import EstimatorHead, as_blocks

_NEIGHBOUR_BYTES = 32  # of each query: cosine, row, class, and their copies on the way to votes
SMOOTHING = 1.0  # neighbours


class KnnHead(EstimatorHead):
    """Weighted k nearest neighbours: each of the k training images of highest cosine s votes for its class exp(s/T).

    Caron, Touvron, Misra, Jégou, Mairal, Bojanowski, Joulin, Emerging Properties in Self-Supervised Vision
    Transformers (DINO), 2021, https://arxiv.org/abs/2104.14294, with k = 20 and T = 0.07; the weights are those of Wu,
    Xiong, Yu, Lin, Unsupervised Feature Learning via Non-Parametric Instance Discrimination, 2018,
    https://arxiv.org/abs/1805.01978. The search is exact and goes by chunks of both sides.

    Differs from the papers: the votes become probabilities. With v the class's share of the votes and C classes seen in
    training, p = (k·v + smoothing/C)/(k + smoothing): the order of the classes stays, and a class that no neighbour has
    is not impossible. The logits are log p. `smoothing=0` is the plain share.

    Args:
        k: neighbours that vote; all rows, where there are fewer.
        temperature: T > 0; smaller listens more to the nearest.
        smoothing: neighbours' worth of votes spread over all classes, >= 0.
        normalization: a key of NORMALIZATIONS, "pca:C" or both, before the cosine.
        blocks: (start, stop) columns of each backbone for the "block-…" normalisations; None means one block.

    Attributes:
        bank_: the training features as they were given, not copied: do not write to them; bank_labels_: their classes.
        memory_: what a search may hold beside the features.
    """

    def __init__(
        self,
        k: int = 20,
        *,
        temperature: float = 0.07,
        smoothing: float = SMOOTHING,
        normalization: str = "none",
        blocks: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self.k = k
        self.temperature = temperature
        self.smoothing = smoothing
        self.normalization = normalization
        self.blocks = blocks

    def fit(self, X: Any, y: Any, *, num_classes: int | None = None, memory: MemoryBudget = FRUGAL) -> Self:
        """Keeps features X (N, D) and labels y (N,); K is `num_classes`, or counted from the labels.

        `memory` bounds what a search holds beside the features, and changes no result.

        Raises:
            FeatureError: features of the wrong shape, or not finite.
            ValueError: labels out of range or of fewer than two classes; a bad `k`, `temperature` or `smoothing`.
        """
        if self.k < 1 or not self.temperature > 0 or not self.smoothing >= 0:
            raise ValueError(
                "k must be at least 1, temperature > 0 and smoothing >= 0, "
                f"got k={self.k}, temperature={self.temperature}, smoothing={self.smoothing}."
            )
        self.bank_, self.bank_labels_ = self._read_training(X, y, num_classes)
        self.memory_ = memory
        self.normalization_ = fit_named(self.normalization, self.bank_, blocks=as_blocks(self.blocks))
        return self

    def logits(self, X: Any) -> torch.Tensor:
        """Log probabilities (N, K) of features (N, D); -inf for a class never seen."""
        features = self._read_features(X)
        seen = torch.bincount(self.bank_labels_, minlength=len(self.classes_)) > 0
        similarities, rows = nearest(features, self.bank_, self.normalization_, k=self.k, memory=self.memory_)
        return vote(
            similarities, self.bank_labels_[rows], seen=seen, temperature=self.temperature, smoothing=self.smoothing
        )


def nearest(
    queries: Features,
    bank: Features,
    normalization: Normalization | Pca,
    *,
    k: int,
    rows: torch.Tensor | None = None,
    memory: MemoryBudget = FRUGAL,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k rows of a bank (N, D) of highest cosine to each query (Q, D), highest first.

    Which of several equally near rows stands at the last place is not defined. The bank is read once for as many
    queries as `memory` lets stand ready.

    Args:
        rows: the rows of the bank that count; None means all.
        memory: decides the chunks of both sides, and no result.

    Returns:
        cosines (Q, k) and rows of the bank (Q, k); all rows, where there are fewer than k. float64 for a bank of
        float64, else float32.

    Raises:
        RichrepError: `memory` has a limit that is too small for the result.
    """
    asked, kept = as_rows(queries), as_rows(bank, rows)
    total, dim = kept.shape
    k = min(k, total)
    memory.check_state(_NEIGHBOUR_BYTES * k * len(asked), f"finding {k:,} neighbours of {len(asked):,} images")
    cosines = torch.full((len(asked), k), -torch.inf, dtype=kept.dtype, device=kept.device)
    found = torch.zeros(len(asked), k, dtype=torch.int64, device=kept.device)
    bank_step = max(1, min(total, memory.chunk_values // dim))
    ready_step = max(1, memory.rotated // (3 * kept.dtype.itemsize * dim))  # three copies while they are normalised
    step = max(1, 2 * memory.chunk_values // (bank_step + k))
    for first in range(0, len(asked), ready_step):
        chunk = asked[first : first + ready_step].to(kept.device, kept.dtype)
        units = unit_rows(normalization.apply(chunk))  # (B, D')
        for start in range(0, total, bank_step):
            candidates = unit_rows(normalization.apply(kept[start : start + bank_step])).T  # (D', chunk)
            for place in range(0, len(units), step):
                here = slice(first + place, min(first + place + step, first + len(units)))
                near, places = (units[place : place + step] @ candidates).topk(min(k, candidates.shape[1]), dim=1)
                values, index = torch.cat([cosines[here], near], 1), torch.cat([found[here], places + start], 1)
                cosines[here], places = values.topk(k, dim=1)
                found[here] = index.gather(1, places)
    return cosines, found if rows is None else rows.to(found.device)[found]


def vote(
    similarities: torch.Tensor, labels: torch.Tensor, *, seen: torch.Tensor, temperature: float, smoothing: float
) -> torch.Tensor:
    """Log probabilities (Q, K) from cosines (Q, k) and classes (Q, k) of the neighbours; `seen` (K,) are possible."""
    weights = ((similarities - similarities.amax(1, keepdim=True)) / temperature).exp()
    votes = weights.new_zeros(len(weights), len(seen)).scatter_add_(1, labels, weights)
    k = similarities.shape[1]
    shares = votes / weights.sum(1, keepdim=True)
    return ((k * shares + smoothing / seen.sum() * seen) / (k + smoothing)).log()
