"""Ridge regression on one-hot targets, with the whole penalty path tried."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from richrep.evaluation.protocols.protocol import (
    Candidate,
    Choice,
    best_on_val,
    block_rows,
    fit_head,
    logits_by_block,
    spans,
)
from richrep.evaluation.selection import check_rows
from richrep.features.feature_set import FeatureSet
from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.features.normalize import DEFAULT_NORMALIZATIONS
from richrep.heads.ridge import RidgeHead

DEFAULT_RATIOS = tuple(float(ratio) for ratio in 10.0 ** np.arange(-8, 0.1, 0.5))


@dataclass(frozen=True)
class RidgeProtocol:
    """Ridge regression in closed form: choose penalty and normalisation on val, then fit on all training images.

    Attributes:
        ratios: penalties as multiples of the trace of XᵀX/N, so that they fit features of any size and number.
        normalizations: tried with every penalty; fitted on the training images only.
        val_fraction: of every class of train, when the data set stores no val.
    """

    name: str = "ridge"
    ratios: tuple[float, ...] = DEFAULT_RATIOS
    normalizations: tuple[str, ...] = DEFAULT_NORMALIZATIONS
    val_fraction: float = 0.2

    def select(
        self, trainval: FeatureSet, train_rows: np.ndarray, val_rows: np.ndarray, *, memory: MemoryBudget = FRUGAL
    ) -> Choice:
        """The candidate of highest val accuracy; one eigen-decomposition serves every penalty of a normalisation."""
        check_rows(train_rows, val_rows)
        train, val = (trainval.take(rows, max_bytes=memory.kept) for rows in (train_rows, val_rows))
        size = block_rows(memory, val.num_classes, val.feature_dim)
        return best_on_val(self._candidates(train, val, memory), val.labels, block_rows=size)

    def _candidates(self, train: FeatureSet, val: FeatureSet, memory: MemoryBudget) -> Iterator[Candidate]:
        ratios = sorted(self.ratios, reverse=True)
        for normalization in self.normalizations:
            plain = RidgeHead(normalization=normalization, blocks=spans(train))
            heads = plain.along(train.features, train.labels, ratios, num_classes=train.num_classes, memory=memory)
            for head in heads:
                chosen = {"l2": head.l2, "normalization": normalization}
                yield Candidate(chosen, logits_by_block(head, val), head.solver_)

    def refit(self, trainval: FeatureSet, choice: Choice, *, memory: MemoryBudget = FRUGAL) -> RidgeHead:
        """Fitted on all rows, with the penalty per image that was chosen."""
        return fit_head(RidgeHead, trainval, choice.hyperparameters, memory=memory)
