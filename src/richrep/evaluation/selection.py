"""Chooses hyper-parameters on val. It is handed train and val, and never sees test."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from richrep.features.feature_set import FeatureSet
from richrep.features.normalize import DEFAULT_NORMALIZATIONS, moments
from richrep.heads.logistic_path import Linear, LogisticPath, fit_logistic_path

DEFAULT_CS = tuple(float(c) for c in 10.0 ** np.linspace(-5, 6, 23))  # as wide as t-ReX's search; C = 1/(N·l2)


@dataclass(frozen=True)
class Candidate:
    """One (normalisation, penalty) and what it scored on val."""

    normalization: str
    l2: float
    val_accuracy: float
    objective: float
    iterations: int
    converged: bool


@dataclass(frozen=True, eq=False)
class Selection:
    """The chosen hyper-parameters and how they were chosen.

    Attributes:
        best: the candidate with the highest val accuracy.
        val_logits: (N_val, K) of the best candidate, fitted on train alone.
        linear: its weights (K, D) and biases (K,), from which a refit on train and val starts.
        candidates: all that were tried.
        elapsed_s: time spent.
    """

    best: Candidate
    val_logits: torch.Tensor
    linear: Linear
    candidates: tuple[Candidate, ...]
    elapsed_s: float


def check_rows(train_rows: np.ndarray, val_rows: np.ndarray) -> None:
    """Raises ValueError unless there are train and val rows, and none is both."""
    if min(len(train_rows), len(val_rows)) == 0 or np.intersect1d(train_rows, val_rows).size:
        raise ValueError(
            f"selection needs disjoint train and val rows, got {len(train_rows)} and {len(val_rows)} "
            f"with {np.intersect1d(train_rows, val_rows).size} in both."
        )


def _best_of(path: LogisticPath, val: torch.Tensor, labels: torch.Tensor) -> tuple[list[Candidate], torch.Tensor, int]:
    """All candidates of one path, val logits of its best, and the best's index; ties go to the larger penalty."""
    values = val if path.normalization.folds else path.normalization.apply(val)
    candidates, best, best_logits = [], -1, torch.empty(0)
    for i in torch.argsort(path.l2s, descending=True).tolist():
        logits = torch.addmm(path.biases[i], values.to(path.weights), path.weights[i].T)
        accuracy = float((logits.argmax(1) == labels).double().mean())
        candidates.append(
            Candidate(
                normalization=path.normalization.name,
                l2=float(path.l2s[i]),
                val_accuracy=accuracy,
                objective=float(path.objectives[i]),
                iterations=int(path.iterations[i]),
                converged=bool(path.converged[i]),
            )
        )
        if best < 0 or accuracy > candidates[best].val_accuracy:
            best, best_logits = len(candidates) - 1, logits
    return candidates, best_logits, best


def select_logistic(
    trainval: FeatureSet,
    train_rows: np.ndarray,
    val_rows: np.ndarray,
    *,
    cs: Sequence[float] = DEFAULT_CS,
    normalizations: Sequence[str] = DEFAULT_NORMALIZATIONS,
) -> Selection:
    """The penalty and the normalisation with the best val accuracy, the whole path fitted on train.

    Ties go to the larger penalty within a normalisation, and between normalisations to the one named first.

    Args:
        trainval: features of train and val together.
        train_rows, val_rows: rows of `trainval`; disjoint.
        cs: scikit-learn's C; the penalty is l2 = 1/(N_train·C).
        normalizations: keys of NORMALIZATIONS, "pca:C" or both, e.g. "block-rms+pca:64".

    Raises:
        ValueError: no train or no val rows, or train and val overlap.
    """
    check_rows(train_rows, val_rows)
    start = time.perf_counter()
    rows = torch.as_tensor(train_rows, dtype=torch.int64)
    val_index = torch.as_tensor(val_rows, dtype=torch.int64)
    val, val_labels = trainval.features[val_index], trainval.labels[val_index]
    raw = moments(trainval.features, rows, with_gram=len(rows) >= trainval.feature_dim)
    l2s = [1 / (len(rows) * c) for c in cs]
    tried: list[Candidate] = []
    best: Candidate | None = None
    best_logits, linear = torch.empty(0), (torch.empty(0), torch.empty(0))
    for name in normalizations:
        path = fit_logistic_path(
            trainval.features,
            trainval.labels,
            num_classes=trainval.num_classes,
            l2s=l2s,
            normalization=name,
            blocks=trainval.blocks,
            rows=rows,
            raw_moments=raw,
        )
        candidates, logits, index = _best_of(path, val, val_labels)
        tried += candidates
        if best is None or candidates[index].val_accuracy > best.val_accuracy:
            best, best_logits = candidates[index], logits
            at = path.l2s.tolist().index(best.l2)
            linear = path.weights[at].clone(), path.biases[at].clone()  # without the rest of the path
    if best is None:
        raise ValueError("selection needs at least one normalization, got none.")
    return Selection(best, best_logits, linear, tuple(tried), time.perf_counter() - start)
