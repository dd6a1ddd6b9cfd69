"""The SGD probe of t-ReX's transfer suite: learning rate and weight decay searched by Optuna."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from richrep.evaluation.protocols.protocol import Choice, Contest, spans
from richrep.evaluation.protocols.sgd_linear import conclude, fit_sgd, views_of
from richrep.evaluation.protocols.trex_search import Point, check_optuna, tpe_search
from richrep.evaluation.protocols.trex_split import trex_rows
from richrep.evaluation.selection import check_rows
from richrep.features.feature_set import FeatureSet
from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.features.rows import Features
from richrep.heads.lr_factors import cosine
from richrep.heads.sgd import SgdHead
from richrep.heads.sgd_grid import SgdCell

# Sariyildiz, Kalantidis, Alahari, Larlus, No reason for no supervision, 2023, https://arxiv.org/abs/2206.15369: the
# transfer suite of naver/trex, --clf_type logreg_torch, which it uses for the large data sets.


@dataclass(frozen=True)
class TrexSgdProtocol:
    """SGD on l2-normalised features, as t-ReX: choose in 30 Optuna trials on val, then train on all training images.

    t-ReX's probe of large data sets.

    Attributes:
        trials: points tried; the first ten train at once, the others depend on those before and go one by one.
        lr_range, weight_decay_range: log-uniform (--clf_lr_min, …).
        epochs, batch_size, momentum: of each trial and of the refit.
        late_schedule: the rate is one epoch behind its cosine from the second epoch on, as in t-ReX's code.
        leaking_split: val is cut as in t-ReX's code: see `trex_rows`.
        normalizations: before the layer (--features_norm); with several, each gets its own search.
        val_fraction: of every class of train and val together (--dataset_per_val).
        seed: of val, the search, the first weights and the batches (t-ReX's default is 22); a probe puts its own here.

    Differs from t-ReX, where `legacy-trex-sgd` does not: `late_schedule` and `leaking_split` are off.
    """

    reads_views: ClassVar[bool] = True  # epochs cycle through them, where there are any; t-ReX has none

    name: str = "trex-sgd"
    trials: int = 30
    lr_range: tuple[float, float] = (0.1, 100.0)
    weight_decay_range: tuple[float, float] = (1e-12, 1e-4)
    epochs: int = 100
    batch_size: int = 1024
    momentum: float = 0.9
    late_schedule: bool = False
    leaking_split: bool = False
    normalizations: tuple[str, ...] = ("l2",)
    val_fraction: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        check_optuna(self.name)

    def split(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows (train, val) of trainval."""
        return trex_rows(labels, fraction=self.val_fraction, seed=self.seed, leak=self.leaking_split)

    def select(
        self, trainval: FeatureSet, train_rows: np.ndarray, val_rows: np.ndarray, *, memory: MemoryBudget = FRUGAL
    ) -> Choice:
        """The trial of highest val accuracy; ties go to the lower nll. One that diverges scores 0.

        Raises:
            DivergedError: every trial diverged.
        """
        check_rows(train_rows, val_rows)
        train, val = (trainval.take(rows, max_bytes=memory.kept) for rows in (train_rows, val_rows))
        return self.choose(train, val, views=views_of(trainval, train_rows), memory=memory)

    def choose(
        self,
        train: FeatureSet,
        val: FeatureSet,
        *,
        views: Sequence[Features] | None = None,
        memory: MemoryBudget = FRUGAL,
    ) -> Choice:
        """The same, of a set to train on, with random views of its images (None: its own), and a set to score."""
        views = views_of(train, None) if views is None else views
        contest, diverged = Contest(val.labels), list[str]()
        space = {"lr": self.lr_range, "weight_decay": self.weight_decay_range}

        def score(points: Sequence[Point], normalization: str) -> list[float]:
            cells = [SgdCell(**point, seed=self.seed) for point in points]
            found = self._head(normalization, train).along(
                train.features, train.labels, cells, num_classes=train.num_classes, views=views, memory=memory
            )
            scores = dict.fromkeys(cells, 0.0)
            for head in found.heads:
                chosen = {"lr": head.lr, "weight_decay": head.weight_decay, "normalization": normalization}
                offered = Choice(chosen, head.logits(val.features), solver=head.solver_ | {"trials": self.trials})
                scores[SgdCell(head.lr, head.weight_decay, head.seed)] = contest.offer(offered)
            diverged.extend(f"{said} ({normalization})" for said in found.say_diverged())
            return [scores[cell] for cell in cells]

        for normalization in self.normalizations:
            score_points = partial(score, normalization=normalization)
            tpe_search(space, score_points, trials=self.trials, seed=self.seed, joint=True)
        return conclude(contest, diverged)

    def refit(self, trainval: FeatureSet, choice: Choice, *, memory: MemoryBudget = FRUGAL) -> SgdHead:
        """Trained on all rows with the learning rate and the weight decay of the best trial, to the last epoch."""
        chosen = dict(choice.hyperparameters)
        head = self._head(chosen.pop("normalization"), trainval).set_params(**chosen)
        return fit_sgd(head, trainval, memory)

    def _head(self, normalization: str, features: FeatureSet) -> SgdHead:
        return SgdHead(
            epochs=self.epochs,
            batch_size=self.batch_size,
            momentum=self.momentum,
            decay_bias=True,  # weight decay on weight and bias
            init="default",
            lr_factors=cosine(self.epochs, late=self.late_schedule),
            seed=self.seed,
            normalization=normalization,
            blocks=spans(features),
        )


def legacy_trex_sgd(**options: Any) -> TrexSgdProtocol:
    """trex-sgd with its code's faults: choose in 30 Optuna trials on val, then train on all training images.

    The learning rate is one epoch late, and val is cut by a fraction that leaks from small classes to later ones.
    """
    return replace(TrexSgdProtocol(name="legacy-trex-sgd", late_schedule=True, leaking_split=True), **options)
