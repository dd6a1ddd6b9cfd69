"""The L-BFGS probe of t-ReX's transfer suite: scikit-learn's C searched by Optuna."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from richrep.evaluation.protocols.protocol import Choice, Contest, spans
from richrep.evaluation.protocols.trex_search import Point, check_optuna, tpe_search
from richrep.evaluation.protocols.trex_split import trex_rows
from richrep.evaluation.selection import check_rows
from richrep.features.feature_set import FeatureSet
from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.heads.linear import Linear, linear_logits
from richrep.heads.logistic import LogisticHead
from richrep.heads.logistic_path import fit_logistic_path

# Sariyildiz, Kalantidis, Alahari, Larlus, No reason for no supervision, 2023, https://arxiv.org/abs/2206.15369: the
# transfer suite of naver/trex, --clf_type logreg_sklearn, which it uses for the eight small data sets.


@dataclass(frozen=True)
class TrexLbfgsProtocol:
    """Logistic regression, as t-ReX: choose C in 30 Optuna trials on val, then fit on all training images.

    t-ReX's probe of small data sets, on features as they are.

    Attributes:
        trials: points tried; the first ten are solved as one path, the others depend on those before.
        c_range: scikit-learn's C, log-uniform (--clf_C_min, --clf_C_max); it is kept for the refit, l2 = 1/(N·C).
        max_iter: iterations at most (--clf_max_iter).
        leaking_split: val is cut as in t-ReX's code: see `trex_rows`.
        normalizations: before the regression (--features_norm); with several, each gets its own search.
        val_fraction: of every class of train and val together (--dataset_per_val).
        seed: of val and of the search (t-ReX's default is 22); a probe puts its own here.

    Differs from t-ReX: solved by `LogisticHead`, not scikit-learn's L-BFGS at tol 1e-4: the same convex objective,
    nearer to its one minimum, from a solution nearby, on features larger than memory too. `leaking_split` is off, where
    `legacy-trex-lbfgs` has it on.
    """

    name: str = "trex-lbfgs"
    trials: int = 30
    c_range: tuple[float, float] = (1e-5, 1e6)
    max_iter: int = 2000
    leaking_split: bool = False
    normalizations: tuple[str, ...] = ("none",)
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
        """The trial of highest val accuracy; ties go to the lower nll."""
        check_rows(train_rows, val_rows)
        train, val = (trainval.take(rows, max_bytes=memory.kept) for rows in (train_rows, val_rows))
        return self.choose(train, val, memory=memory)

    def choose(self, train: FeatureSet, val: FeatureSet, *, memory: MemoryBudget = FRUGAL) -> Choice:
        """The same, of a set to fit on and a set to score."""
        contest = Contest(val.labels)
        solved: dict[float, Linear] = {}

        def score(points: Sequence[Point], normalization: str) -> list[float]:
            cs = [point["c"] for point in points]
            near = min(solved, key=lambda c: abs(np.log(c / cs[0])), default=None)
            path = fit_logistic_path(
                train.features,
                train.labels,
                num_classes=train.num_classes,
                l2s=[1 / (len(train) * c) for c in cs],
                normalization=normalization,
                blocks=train.blocks,
                near=None if near is None else solved[near],
                max_iter=self.max_iter,
                memory=memory,
            )
            scores = []
            for c, weight, bias in zip(cs, path.weights, path.biases, strict=True):
                solved[c] = weight, bias
                logits = linear_logits(val.features, weight, bias, path.normalization)
                solver = path.solver | {"trials": self.trials}
                chosen = {"c": c, "normalization": normalization}
                scores.append(contest.offer(Choice(chosen, logits, near=solved[c], solver=solver)))
            return scores

        for normalization in self.normalizations:
            solved.clear()
            score_points = partial(score, normalization=normalization)
            tpe_search({"c": self.c_range}, score_points, trials=self.trials, seed=self.seed, joint=False)
        return contest.winner()

    def refit(self, trainval: FeatureSet, choice: Choice, *, memory: MemoryBudget = FRUGAL) -> LogisticHead:
        """Fitted on all rows with the C of the best trial."""
        head = LogisticHead(
            1 / (len(trainval) * choice.hyperparameters["c"]),
            normalization=choice.hyperparameters["normalization"],
            blocks=spans(trainval),
            max_iter=self.max_iter,
        )
        options: dict[str, Any] = {"num_classes": trainval.num_classes, "near": choice.near, "memory": memory}
        return head.fit(trainval.features, trainval.labels, **options)


def legacy_trex_lbfgs(**options: Any) -> TrexLbfgsProtocol:
    """trex-lbfgs with its code's fault: choose C in 30 Optuna trials on val, then fit on all training images.

    Val is cut by a fraction that leaks from small classes to later ones.
    """
    return replace(TrexLbfgsProtocol(name="legacy-trex-lbfgs", leaking_split=True), **options)
