"""K-shot: logistic regression on N training images of every class, drawn again and again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from richrep.data.split import rows_of_each_class
from richrep.errors import DatasetError, RichrepError
from richrep.evaluation.metrics import nll
from richrep.evaluation.protocols.draw import Draw, Pool
from richrep.evaluation.protocols.logistic import LogisticProtocol
from richrep.evaluation.protocols.protocol import Choice, spans
from richrep.features.feature_set import FeatureSet
from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.features.normalize import DEFAULT_NORMALIZATIONS
from richrep.features.view_rows import with_views_as_rows
from richrep.heads.linear import linear_logits
from richrep.heads.logistic import LogisticHead
from richrep.heads.logistic_path import solve_logistic_path
from richrep.heads.path_ends import PathPoint

_NAME = re.compile(r"(kshot|kshot-whole-val):([1-9]\d{0,8})")
# Beyond, the few images are told apart without loss.
_FEW_CS = tuple(float(c) for c in 10.0 ** np.arange(-5, 3.1, 0.5))
_TOL = 1e-3  # candidates are only ranked; the head is fitted as closely as any
_ONE_SHOT = "block-l2", 1.0  # normalisation and C where nothing is left to select on


def kshot_whole_val(*, name: str = "kshot-whole-val:5", **options: Any) -> KShotProtocol:
    """N images a class beside all of val: choose penalty on val, then fit on all training images drawn; ten times."""
    return KShotProtocol(name=name, **options)


@dataclass(frozen=True)
class KShotProtocol:
    """N images a class, drawn ten times: choose penalty on val folds, then fit on all training images drawn.

    All that is used of train is N images of every class: each is held out once in `folds` parts (or N, if that is
    less), penalty and normalisation are those of the most held-out images named rightly (ties: the lower nll), and the
    head is fitted on all of them. With one image a class nothing can be held out: features of unit length, C = 1. Test
    is whole. What is reported is the mean over the repeats; its interval is Student's over them, so it speaks of the
    draw of the training images.

    Attributes:
        name: "kshot:N"; "kshot-whole-val:N" selects on the whole val part instead (20 % of train, or as stored), which
            who has but N images a class does not have, and draws the N from the rest. For comparison with papers.
        repeats: draws, each by the run's seed and its own number.
        folds: at most.
        cs: scikit-learn's C; the penalty is l2 = 1/(N·K·C).
        normalizations: tried with every penalty; fitted on the images in use only.
        val_fraction: of "kshot-whole-val", of every class of train, when the data set stores no val.

    Source: the few-shot runs of naver/cog (N random images a class, 5 seeds, val the full 20 %). Differs: 10 draws,
    selection by cross-validation on the drawn images alone, and the images that were selected with are those fitted on
    (theirs are drawn anew for the last fit).
    """

    name: str = "kshot:5"
    repeats: int = 10
    folds: int = 5
    cs: tuple[float, ...] = _FEW_CS
    normalizations: tuple[str, ...] = DEFAULT_NORMALIZATIONS
    val_fraction: float = 0.2

    reads_views: ClassVar[bool] = True  # all views of an image are in one fold

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise RichrepError(
                f"{self.name!r} is no protocol: after the colon comes the number of training images a class, 1 or "
                "more, such as kshot:5."
            )
        if self.repeats < 1 or self.folds < 2:
            raise RichrepError(
                f"{self.name} needs at least 1 repeat and 2 folds, got repeats={self.repeats} and folds={self.folds}."
            )

    @property
    def shots(self) -> int:
        """N."""
        return int(self.name.partition(":")[2])

    @property
    def uses_whole_val(self) -> bool:
        """Whether selection may see more than the drawn images."""
        return self.name.startswith("kshot-whole-val")

    def draws(self, pool: Pool, *, seed: int) -> tuple[Draw, ...]:
        """`repeats` draws; repeat i by the generator of (seed, i)."""
        rows = pool.train_rows if self.uses_whole_val else pool.whole_train
        by_class = [rows[places] for places in rows_of_each_class(pool.labels[rows])]
        self._check_classes(pool, by_class)
        return tuple(self._draw(pool, by_class, (seed, repeat)) for repeat in range(self.repeats))

    def _draw(self, pool: Pool, by_class: list[np.ndarray], seed: tuple[int, int]) -> Draw:
        generator = np.random.default_rng(seed)
        drawn = np.concatenate([generator.choice(rows, self.shots, replace=False) for rows in by_class])
        if self.uses_whole_val:
            return Draw(seed, drawn, pool.val_rows, drawn, len(pool.val_rows), "whole, beside the drawn images")
        if self.shots == 1:
            return Draw(seed, drawn, drawn[:0], drawn, 0, "none: one image a class leaves nothing to select on")
        folds = min(self.folds, self.shots)
        return Draw(seed, drawn, drawn, drawn, 0, f"{folds} folds of the drawn images, each held out once")

    def _check_classes(self, pool: Pool, by_class: list[np.ndarray]) -> None:
        smallest = min(by_class, key=len)
        if len(smallest) < self.shots:
            part = "without val" if self.uses_whole_val else "in train"
            raise DatasetError(
                f"{self.name} needs {self.shots} training images of every class, but class "
                f"{pool.class_names[pool.labels[smallest[0]]]!r} has {len(smallest)} {part}, the fewest of all. "
                "Ask for fewer a class, or use a larger --train-size."
            )

    def select(
        self, trainval: FeatureSet, train_rows: np.ndarray, val_rows: np.ndarray, *, memory: MemoryBudget = FRUGAL
    ) -> Choice:
        """By folds where val is the train rows themselves, on val where it is others, not at all where it is empty."""
        if len(val_rows) == 0:
            return self._unselected(trainval, len(train_rows))
        if np.array_equal(train_rows, val_rows):
            return self._by_folds(trainval, train_rows, memory)
        return self._logistic().select(
            *with_views_as_rows(trainval, train_rows, val_rows, memory=memory), memory=memory
        )

    def choose(self, train: FeatureSet, val: FeatureSet, *, memory: MemoryBudget = FRUGAL) -> Choice:
        """The candidate of highest accuracy on `val`, all fitted on all of `train`."""
        return self._logistic().choose(train, val, memory=memory)

    def refit(self, trainval: FeatureSet, choice: Choice, *, memory: MemoryBudget = FRUGAL) -> LogisticHead:
        """Fitted on all rows, or on all views of them."""
        rows = np.arange(len(trainval))
        fitted, _, _ = with_views_as_rows(trainval, rows, rows[:0], memory=memory)
        return LogisticProtocol().refit(fitted, choice, memory=memory)

    def _logistic(self) -> LogisticProtocol:
        return LogisticProtocol(cs=self.cs, normalizations=self.normalizations)

    def _unselected(self, trainval: FeatureSet, num_images: int) -> Choice:
        name, c = _ONE_SHOT
        normalization = name if name in self.normalizations else self.normalizations[0]
        nothing = torch.empty(0, trainval.num_classes)
        return Choice({"l2": 1 / (num_images * c), "normalization": normalization}, nothing)

    def _by_folds(self, trainval: FeatureSet, rows: np.ndarray, memory: MemoryBudget) -> Choice:
        """The candidate of most hits over all folds; ties go to the lower nll. No image is in its own training set."""
        l2s = [1 / (len(rows) * c) for c in self.cs]
        hits, losses = (np.zeros((len(self.normalizations), len(l2s))) for _ in range(2))
        solver: dict[str, object] = {}
        for kept, held in self._split(trainval.labels.cpu().numpy()[rows], rows):
            features, train, val = with_views_as_rows(trainval, kept, held, memory=memory)
            held_out = features.take(val)

            def take(point: PathPoint, *, place: int, held_out: FeatureSet = held_out) -> None:
                logits = linear_logits(held_out.features, point.weights, point.biases, point.normalization)
                hits[place, point.index] += int((logits.argmax(1) == held_out.labels).sum())
                losses[place, point.index] += len(held_out) * nll(logits=logits, labels=held_out.labels)

            for place, name in enumerate(self.normalizations):
                solver = solve_logistic_path(
                    features.features,
                    features.labels,
                    partial(take, place=place),
                    num_classes=features.num_classes,
                    l2s=l2s,
                    normalization=name,
                    blocks=features.blocks,
                    rows=torch.as_tensor(train),
                    tol=_TOL,
                    memory=memory,
                )
        place, index = min(np.ndindex(hits.shape), key=lambda at: (-hits[at], losses[at]))
        chosen = {"l2": l2s[index], "normalization": self.normalizations[place]}
        return Choice(chosen, self._held_out_logits(trainval, rows, chosen, memory), solver=solver)

    def _held_out_logits(
        self, trainval: FeatureSet, rows: np.ndarray, chosen: dict[str, object], memory: MemoryBudget
    ) -> torch.Tensor:
        """(n, K) of every row under the head of the folds it is not in."""
        logits = torch.empty(len(rows), trainval.num_classes)
        place = {int(row): i for i, row in enumerate(rows)}
        for kept, held in self._split(trainval.labels.cpu().numpy()[rows], rows):
            features, train, val = with_views_as_rows(trainval, kept, held, memory=memory)
            head = LogisticHead(**chosen, blocks=spans(features))  # type: ignore[arg-type]
            fitted = features.take(train)
            head.fit(fitted.features, fitted.labels, num_classes=features.num_classes, memory=memory)
            logits[[place[int(row)] for row in held]] = head.logits(features.take(val).features).float().cpu()
        return logits

    def _split(self, labels: np.ndarray, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(kept, held) rows of every fold; a class's images are dealt to the folds in turn."""
        fold = np.empty(len(rows), dtype=np.int64)
        by_class = rows_of_each_class(labels)
        folds = min(self.folds, *(len(places) for places in by_class))
        for places in by_class:
            fold[places] = np.arange(len(places)) % folds
        for number in range(folds):
            yield rows[fold != number], rows[fold == number]
