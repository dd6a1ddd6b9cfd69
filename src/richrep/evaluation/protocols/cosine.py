"""Cosine softmax, with the temperature and the normalisation tried."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from richrep.evaluation.protocols.protocol import Choice, distinct_angles, fit_head, select_by_grid
from richrep.features.feature_set import FeatureSet
from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.features.normalize import DEFAULT_NORMALIZATIONS
from richrep.heads.cosine import CosineHead


@dataclass(frozen=True)
class CosineProtocol:
    """Cosine softmax: choose temperature and normalisation on val, then train on all training images.

    Attributes:
        temperatures: larger is smoother; t-ReX trains with 0.1.
        normalizations: before the cosine; fitted on the training images only.
        val_fraction: of every class of train, when the data set stores no val.
    """

    name: str = "cosine"
    temperatures: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.5)
    normalizations: tuple[str, ...] = DEFAULT_NORMALIZATIONS
    val_fraction: float = 0.2

    def select(
        self, trainval: FeatureSet, train_rows: np.ndarray, val_rows: np.ndarray, *, memory: MemoryBudget = FRUGAL
    ) -> Choice:
        """The candidate of highest val accuracy."""
        options = [
            {"temperature": temperature, "normalization": normalization}
            for normalization in distinct_angles(self.normalizations, trainval)
            for temperature in sorted(self.temperatures, reverse=True)
        ]
        return select_by_grid(CosineHead, options, trainval, train_rows, val_rows, memory)

    def refit(self, trainval: FeatureSet, choice: Choice, *, memory: MemoryBudget = FRUGAL) -> CosineHead:
        """Fitted on all rows."""
        return fit_head(CosineHead, trainval, choice.hyperparameters)
