"""VTAB-1k: logistic regression on 1,000 training images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from richrep.errors import DatasetError
from richrep.evaluation.protocols.draw import Draw, Pool
from richrep.evaluation.protocols.logistic import LogisticProtocol
from richrep.evaluation.protocols.protocol import Choice
from richrep.evaluation.selection import DEFAULT_CS
from richrep.features.feature_set import FeatureSet
from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.features.normalize import DEFAULT_NORMALIZATIONS
from richrep.heads.logistic import LogisticHead


@dataclass(frozen=True)
class Vtab1kProtocol:
    """800 + 200 images drawn: choose penalty and normalisation on val, then fit on all training images drawn.

    The 1,000 are drawn from train by the seed, whatever their classes; where the data set stores a val, the 200 come
    from that. Test is whole.

    Attributes:
        num_train, num_val: images drawn to fit and to select on; the refit has both.
        cs, normalizations: as of `logistic`.
        val_fraction: nothing is selected on the val that it sets apart.

    Source: Zhai et al., A Large-scale Study of Representation Learning with the Visual Task Adaptation Benchmark, 2019,
    https://arxiv.org/abs/1910.04867 (VTAB-1k: 800 examples to train and 200 to tune, then all 1,000). Differs: a linear
    head on frozen features with its whole path of penalties instead of fine-tuning, images drawn by the seed instead of
    the first ones.
    """

    name: str = "vtab1k"
    num_train: int = 800
    num_val: int = 200
    cs: tuple[float, ...] = DEFAULT_CS
    normalizations: tuple[str, ...] = DEFAULT_NORMALIZATIONS
    val_fraction: float = 0.2

    def draws(self, pool: Pool, *, seed: int) -> tuple[Draw, ...]:
        """One draw, by the generator of the seed."""
        generator = np.random.default_rng(seed)
        if pool.val_is_stored:
            train = self._some(pool.train_rows, self.num_train, generator, "train")
            val = self._some(pool.val_rows, self.num_val, generator, "val")
        else:
            both = self._some(pool.whole_train, self.num_train + self.num_val, generator, "train")
            train, val = np.split(both, [self.num_train])
        of = "the stored val" if pool.val_is_stored else "train"
        text = f"{self.num_val} images drawn from {of}, seed {seed}"
        return (Draw((seed,), train, val, np.concatenate([train, val]), self.num_val, text),)

    def _some(self, rows: np.ndarray, size: int, generator: np.random.Generator, part: str) -> np.ndarray:
        if len(rows) < size:
            raise DatasetError(
                f"{self.name} needs {size:,} images of {part}, there are {len(rows):,}. "
                "Use a larger --train-size, or another protocol, such as kshot:5."
            )
        return generator.choice(rows, size, replace=False)

    def select(
        self, trainval: FeatureSet, train_rows: np.ndarray, val_rows: np.ndarray, *, memory: MemoryBudget = FRUGAL
    ) -> Choice:
        """The penalty and the normalisation of highest val accuracy; see `select_logistic`."""
        return self._logistic().select(trainval, train_rows, val_rows, memory=memory)

    def choose(self, train: FeatureSet, val: FeatureSet, *, memory: MemoryBudget = FRUGAL) -> Choice:
        """The same, of a set to fit on and a set to score."""
        return self._logistic().choose(train, val, memory=memory)

    def refit(self, trainval: FeatureSet, choice: Choice, *, memory: MemoryBudget = FRUGAL) -> LogisticHead:
        """Fitted on all rows, from where the selected head was."""
        return self._logistic().refit(trainval, choice, memory=memory)

    def _logistic(self) -> LogisticProtocol:
        return LogisticProtocol(cs=self.cs, normalizations=self.normalizations)
