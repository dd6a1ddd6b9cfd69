"""Logistic regression, the default protocol: a linear probe with the whole penalty path tried."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from richrep.evaluation.protocols.protocol import Choice
from richrep.evaluation.selection import DEFAULT_CS, refit_logistic, select_logistic
from richrep.features.feature_set import FeatureSet
from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.features.normalize import DEFAULT_NORMALIZATIONS
from richrep.features.rows import as_rows
from richrep.heads.logistic import LogisticHead


@dataclass(frozen=True)
class LogisticProtocol:
    """Logistic regression, the default: choose penalty and normalisation on val, then fit on all training images.

    Attributes:
        cs: scikit-learn's C, as wide as t-ReX's search; the penalty is l2 = 1/(N_train·C).
        normalizations: tried with every penalty; fitted on the training images only.
        val_fraction: of every class of train, when the data set stores no val.

    Source: t-ReX's transfer suite, naver/trex. Differs: the whole path instead of 30 trials, the penalty per image is
    kept for the refit, ties go to the larger penalty, normalisation by backbone.
    """

    name: str = "logistic"
    cs: tuple[float, ...] = DEFAULT_CS
    normalizations: tuple[str, ...] = DEFAULT_NORMALIZATIONS
    val_fraction: float = 0.2

    def select(
        self, trainval: FeatureSet, train_rows: np.ndarray, val_rows: np.ndarray, *, memory: MemoryBudget = FRUGAL
    ) -> Choice:
        """The penalty and the normalisation of highest val accuracy; see `select_logistic`."""
        found = select_logistic(
            trainval, train_rows, val_rows, cs=self.cs, normalizations=self.normalizations, memory=memory
        )
        chosen = {"l2": found.best.l2, "normalization": found.best.normalization}
        return Choice(chosen, found.val_logits, near=found.linear, solver=found.solver)

    def choose(self, train: FeatureSet, val: FeatureSet, *, memory: MemoryBudget = FRUGAL) -> Choice:
        """The same, of a set to fit on and a set to score, which are copied into one."""
        features = torch.cat([as_rows(part.features).joined() for part in (train, val)])
        labels = torch.cat([train.labels, val.labels])
        both = FeatureSet(features, labels, train.num_classes, train.blocks, key=f"{train.key}+{val.key}")
        rows = np.arange(len(both))
        return self.select(both, rows[: len(train)], rows[len(train) :], memory=memory)

    def refit(self, trainval: FeatureSet, choice: Choice, *, memory: MemoryBudget = FRUGAL) -> LogisticHead:
        """Fitted on all rows, from where the selected head was."""
        return refit_logistic(trainval, choice.hyperparameters, choice.near, memory=memory)
