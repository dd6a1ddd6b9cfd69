"""k nearest neighbours, with the number, the temperature and the normalisation tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from richrep.evaluation.protocols.protocol import Candidate, Choice, best_on_val, block_rows, distinct_angles, fit_head
from richrep.evaluation.selection import check_rows
from richrep.features.feature_set import FeatureSet
from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.features.normalize import DEFAULT_NORMALIZATIONS
from richrep.features.pca import fit_named
from richrep.features.rows import as_rows
from richrep.heads.knn import SMOOTHING, KnnHead, nearest, vote


@dataclass(frozen=True)
class KnnProtocol:
    """k nearest neighbours by cosine: choose k, temperature and normalisation on val, then all training images vote.

    Attributes:
        ks: neighbours; DINO tries 10, 20, 100, 200. Of those above the number of training images only the smallest is
            tried.
        temperatures: of the votes exp(cosine/T); DINO uses 0.07.
        normalizations: before the cosine; fitted on the training images only.
        val_fraction: of every class of train, when the data set stores no val.

    Source: facebookresearch/dino, eval_knn.py. Differs: k is chosen on val, not reported for all on test.
    """

    name: str = "knn"
    ks: tuple[int, ...] = (1, 5, 10, 20, 50, 100, 200)
    temperatures: tuple[float, ...] = (0.03, 0.07, 0.2)
    normalizations: tuple[str, ...] = DEFAULT_NORMALIZATIONS
    val_fraction: float = 0.2

    def select(
        self, trainval: FeatureSet, train_rows: np.ndarray, val_rows: np.ndarray, *, memory: MemoryBudget = FRUGAL
    ) -> Choice:
        """The candidate of highest val accuracy; one search for neighbours serves every k and temperature."""
        check_rows(train_rows, val_rows)
        rows, val = torch.as_tensor(train_rows), torch.as_tensor(val_rows)
        size = block_rows(memory, trainval.num_classes, max(self.ks))
        return best_on_val(self._candidates(trainval, rows, val, memory), trainval.labels[val], block_rows=size)

    def _candidates(
        self, trainval: FeatureSet, rows: torch.Tensor, val: torch.Tensor, memory: MemoryBudget = FRUGAL
    ) -> Iterator[Candidate]:
        asked = as_rows(trainval.features, val)
        seen = torch.bincount(trainval.labels[rows], minlength=trainval.num_classes) > 0
        ks = sorted(self.ks)
        ks = [k for place, k in enumerate(ks) if place == 0 or ks[place - 1] < len(rows)]
        for normalization in distinct_angles(self.normalizations, trainval):
            fitted = fit_named(normalization, trainval.features, rows, blocks=trainval.blocks, memory=memory)
            cosines, found = nearest(asked, trainval.features, fitted, k=max(ks), rows=rows, memory=memory)
            labels = trainval.labels[found]
            for k in ks:
                for temperature in self.temperatures:
                    chosen = {"k": k, "temperature": temperature, "normalization": fitted.name}
                    votes = partial(vote, seen=seen, temperature=temperature, smoothing=SMOOTHING)
                    logits = partial(_logits_of, votes, cosines[:, :k], labels[:, :k])
                    yield Candidate(chosen, logits, {"memory_limit": memory.limit})

    def refit(self, trainval: FeatureSet, choice: Choice, *, memory: MemoryBudget = FRUGAL) -> KnnHead:
        """All training images are the bank."""
        return fit_head(KnnHead, trainval, choice.hyperparameters, memory=memory)


def _logits_of(
    votes: Callable[..., torch.Tensor], cosines: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor
) -> torch.Tensor:
    """(B, K) of the queries at `rows`, from cosines and classes (N_val, k) of their neighbours."""
    return votes(cosines[rows], labels[rows])
