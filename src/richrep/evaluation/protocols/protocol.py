"""The contract of a protocol, and how one candidate among many is chosen on val.

A protocol is a frozen dataclass whose fields are its options; they are stored whole in every record. It

- `select`s hyper-parameters: heads fitted on train, scored on val; it is never handed test;
- `refit`s a head with the chosen ones on train and val together.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from richrep.evaluation.metrics import accuracy, nll
from richrep.evaluation.selection import check_rows
from richrep.features.feature_set import FeatureSet
from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.features.rows import Rows, as_rows
from richrep.heads.estimator import EstimatorHead
from richrep.heads.linear import Linear

_NO_CANDIDATE = "selection needs at least one candidate, got none. Give every option at least one value."

HeadType = TypeVar("HeadType", bound=EstimatorHead)


@dataclass(frozen=True, eq=False)
class Choice:
    """What a protocol chose.

    Attributes:
        hyperparameters: as the record states them; keywords of the head.
        val_logits: (N_val, K) of the chosen candidate, fitted on train alone.
        near: weights (K, D) and biases (K,) from which the refit may start; they change its time, not its result.
        solver: how the head is solved, where there are several ways, and within which memory.
    """

    hyperparameters: dict[str, Any]
    val_logits: torch.Tensor
    near: Linear | None = None
    solver: dict[str, Any] = field(default_factory=dict)


class ProbeProtocol(Protocol):
    """What every member of PROTOCOLS can do. A member is a dataclass: its fields are its options."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str:
        """The key in PROTOCOLS."""
        ...

    @property
    def normalizations(self) -> tuple[str, ...]:
        """Tried on val; the default is a field, so that an option can replace it."""
        ...

    @property
    def val_fraction(self) -> float:
        """Of every class of train goes to val, when the data set stores none."""
        ...

    def select(
        self, trainval: FeatureSet, train_rows: np.ndarray, val_rows: np.ndarray, *, memory: MemoryBudget = FRUGAL
    ) -> Choice:
        """The best hyper-parameters on val, the candidates fitted on train.

        Features are read by blocks of rows; what is held beside them keeps within `memory` (but for the directions that
        "cosine" trains: its optimiser holds some 45 float64 values for each of K·D).
        """
        ...

    def refit(self, trainval: FeatureSet, choice: Choice, *, memory: MemoryBudget = FRUGAL) -> EstimatorHead:
        """The head with the chosen hyper-parameters, fitted on all of `trainval`."""
        ...


@dataclass(frozen=True, eq=False)
class Candidate:
    """One that may be chosen. Its logits on val are made by the block of rows, and only those of the chosen one whole.

    Attributes:
        hyperparameters, solver: as of `Choice`.
        logits: (B, K) of the val rows at positions (B,), fitted on train alone.
    """

    hyperparameters: dict[str, Any]
    logits: Callable[[torch.Tensor], torch.Tensor]
    solver: dict[str, Any] = field(default_factory=dict)


def best_on_val(candidates: Iterable[Candidate], labels: torch.Tensor, *, block_rows: int = 2**20) -> Choice:
    """The candidate of highest val accuracy; ties go to the lower nll, then the first.

    Args:
        labels: (N_val,) of the rows that candidates give logits of.
        block_rows: of which logits are made at once.
    """
    blocks = torch.split(torch.arange(len(labels)), block_rows)
    best, best_score = None, (-np.inf, -np.inf)
    for candidate in candidates:
        right, loss = 0.0, 0.0
        for rows in blocks:
            logits, truth = candidate.logits(rows), labels[rows]
            right += len(rows) * accuracy(preds=logits.argmax(1), labels=truth)
            loss += len(rows) * nll(logits=logits, labels=truth)
        score = (right / len(labels), -loss / len(labels))
        if best is None or score > best_score:
            best, best_score = candidate, score
    if best is None:
        raise ValueError(_NO_CANDIDATE)
    first = best.logits(blocks[0])
    val_logits = first.new_empty(len(labels), first.shape[1])
    for rows in blocks:
        val_logits[rows] = best.logits(rows)
    return Choice(best.hyperparameters, val_logits, solver=best.solver)


def block_rows(memory: MemoryBudget, *sizes: int) -> int:
    """Rows whose values in the largest of several `sizes` (columns, classes) are a chunk of `memory`."""
    return max(64, memory.chunk_values // max(sizes))


def logits_by_block(head: EstimatorHead, val: FeatureSet) -> Callable[[torch.Tensor], torch.Tensor]:
    """The `logits` of a candidate: those of `head`, on rows of `val`."""
    return lambda rows: head.logits(as_rows(val.features, rows))


class Contest:
    """Candidates as they come, logits and all, of which the best on val alone is kept; ties as in `best_on_val`.

    Args:
        labels: (N_val,) of the same rows as the logits (N_val, K).
    """

    def __init__(self, labels: torch.Tensor) -> None:
        self._labels = labels
        self._best: Choice | None = None
        self._best_score = (-np.inf, -np.inf)

    def offer(self, candidate: Choice) -> float:
        """Keeps the candidate if it is better than all before; its val accuracy."""
        logits, labels = candidate.val_logits, self._labels
        score = (accuracy(preds=logits.argmax(1), labels=labels), -nll(logits=logits, labels=labels))
        if score > self._best_score:
            self._best, self._best_score = candidate, score
        return score[0]

    @property
    def is_empty(self) -> bool:
        """Whether nothing was offered."""
        return self._best is None

    def winner(self) -> Choice:
        """The best of those offered; ValueError when there was none."""
        if self._best is None:
            raise ValueError(_NO_CANDIDATE)
        return self._best


def select_by_grid(
    head_type: type[EstimatorHead],
    options: Iterable[dict[str, Any]],
    trainval: FeatureSet,
    train_rows: np.ndarray,
    val_rows: np.ndarray,
    memory: MemoryBudget,
) -> Choice:
    """The best keywords of a head on val; one fit on train for each. What has not converged competes as it is."""
    check_rows(train_rows, val_rows)
    train, val = (trainval.take(rows, max_bytes=memory.kept) for rows in (train_rows, val_rows))
    solver = {"samples": "streamed" if isinstance(train.features, Rows) else "kept", "memory_limit": memory.limit}

    def candidates() -> Iterator[Candidate]:
        for keywords in options:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                head = fit_head(head_type, train, keywords)
            yield Candidate(keywords, logits_by_block(head, val), solver)

    return best_on_val(candidates(), val.labels, block_rows=block_rows(memory, val.num_classes, val.feature_dim))


def fit_head(
    head_type: type[HeadType], features: FeatureSet, keywords: dict[str, Any], **options: MemoryBudget
) -> HeadType:
    """A head with these keywords, fitted on all rows of `features` with these options of its `fit`."""
    head = head_type(**keywords, blocks=spans(features))
    return head.fit(features.features, features.labels, num_classes=features.num_classes, **options)


def distinct_angles(normalizations: Sequence[str], features: FeatureSet) -> list[str]:
    """Those that give different angles between images: with one backbone, one factor for all its columns gives none."""
    alike = {"none", "l2", "block-rms", "block-l2"} if len(features.blocks) == 1 else set()
    first = next((name for name in normalizations if name in alike), None)
    return [name for name in normalizations if name not in alike or name == first]


def spans(features: FeatureSet) -> list[tuple[int, int]]:
    """The (start, stop) columns of each backbone, as heads take them."""
    return [(block.start, block.stop) for block in features.blocks]
