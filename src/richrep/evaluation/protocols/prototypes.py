"""Nearest class mean, with the metric, the temperature and the normalisation tried."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from richrep.evaluation.protocols.protocol import Choice, fit_head, select_by_grid
from richrep.features.feature_set import FeatureSet
from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.features.normalize import DEFAULT_NORMALIZATIONS
from richrep.heads.prototypes import METRICS, PrototypesHead


@dataclass(frozen=True)
class PrototypesProtocol:
    """Nearest class mean: choose metric, normalisation and temperature on val, then average all training images.

    Attributes:
        metrics: keys of METRICS.
        temperatures: change how sure the head is, not what it says; so the val nll chooses among them.
        normalizations: tried with every metric; fitted on the training images only.
        val_fraction: of every class of train, when the data set stores no val.
    """

    name: str = "prototypes"
    metrics: tuple[str, ...] = tuple(METRICS)
    temperatures: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    normalizations: tuple[str, ...] = DEFAULT_NORMALIZATIONS
    val_fraction: float = 0.2

    def select(
        self, trainval: FeatureSet, train_rows: np.ndarray, val_rows: np.ndarray, *, memory: MemoryBudget = FRUGAL
    ) -> Choice:
        """The candidate of highest val accuracy, the temperature of lowest val nll."""
        options = [
            {"metric": metric, "temperature": temperature, "normalization": normalization}
            for normalization in self.normalizations
            for metric in self.metrics
            for temperature in self.temperatures
        ]
        return select_by_grid(PrototypesHead, options, trainval, train_rows, val_rows, memory)

    def refit(self, trainval: FeatureSet, choice: Choice, *, memory: MemoryBudget = FRUGAL) -> PrototypesHead:
        """Fitted on all rows."""
        return fit_head(PrototypesHead, trainval, choice.hyperparameters)
