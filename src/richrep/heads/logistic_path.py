"""Multinomial logistic regression for many penalties at once.

Objective of one penalty: `(1/N) Σ cross-entropy + (l2/2)·‖W‖²`, bias unpenalised; scikit-learn's `C = 1/(N·l2)`.
For two classes W is one row (the difference of the logits), as in scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from richrep.features.feature_set import Block
from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.features.normalize import Moments, Normalization
from richrep.features.pca import Pca, fit_pca, split_pca
from richrep.features.rows import Features, as_rows
from richrep.features.threads import worker_threads
from richrep.heads.coordinates import choose_coordinates
from richrep.heads.head import check_features, check_labels
from richrep.heads.linear import Linear, linear_logits
from richrep.heads.objective import Objective
from richrep.heads.path_ends import Handover, PathPoint, Start
from richrep.heads.path_solver import Solved, solve_path
from richrep.heads.plan import make_schedule
from richrep.heads.samples import StreamedSamples


@dataclass(frozen=True, eq=False)
class LogisticPath:
    """One head for each of L penalties, on the same normalised features.

    Attributes:
        l2s: (L,) float64.
        weights: (L, K, D) on the features as they came, unless `normalization` does not fold: then on its output.
        biases: (L, K); -inf for a class without a training row.
        objectives: (L,) float64, the objective above at the solution.
        iterations: (L,) int64.
        converged: (L,) bool.
        normalization: fitted on the training rows.
        solver: how it was solved, see `solve_logistic_path`.
    """

    l2s: torch.Tensor
    weights: torch.Tensor
    biases: torch.Tensor
    objectives: torch.Tensor
    iterations: torch.Tensor
    converged: torch.Tensor
    normalization: Normalization | Pca
    solver: dict[str, Any]

    def logits(self, features: Features, index: int) -> torch.Tensor:
        """Scores (N, K) of features (N, D) under penalty `index`."""
        return linear_logits(features, self.weights[index], self.biases[index], self.normalization)


def fit_logistic_path(
    features: Features,
    labels: torch.Tensor,
    *,
    num_classes: int,
    l2s: Sequence[float],
    normalization: str = "none",
    blocks: Sequence[Block] | None = None,
    rows: torch.Tensor | None = None,
    raw_moments: Moments | None = None,
    near: Linear | None = None,
    tol: float = 5e-6,
    max_iter: int = 500,
    memory: MemoryBudget = FRUGAL,
) -> LogisticPath:
    """One logistic head for each penalty in `l2s`, fitted together; arguments as of `solve_logistic_path`.

    The L·K·D weights are all returned; where that is too much, `solve_logistic_path` hands out one after the other.
    """
    points: list[PathPoint] = []
    solver = solve_logistic_path(
        features,
        labels,
        points.append,
        num_classes=num_classes,
        l2s=l2s,
        normalization=normalization,
        blocks=blocks,
        rows=rows,
        raw_moments=raw_moments,
        near=near,
        tol=tol,
        max_iter=max_iter,
        memory=memory,
    )
    points.sort(key=lambda point: point.index)
    return LogisticPath(
        l2s=torch.as_tensor(l2s, dtype=torch.float64),
        weights=torch.stack([point.weights for point in points]),
        biases=torch.stack([point.biases for point in points]),
        objectives=torch.tensor([point.objective for point in points], dtype=torch.float64),
        iterations=torch.tensor([point.iterations for point in points]),
        converged=torch.tensor([point.converged for point in points]),
        normalization=points[0].normalization,
        solver=solver,
    )


def solve_logistic_path(
    features: Features,
    labels: torch.Tensor,
    take: Callable[[PathPoint], None],
    *,
    num_classes: int,
    l2s: Sequence[float],
    normalization: str = "none",
    blocks: Sequence[Block] | None = None,
    rows: torch.Tensor | None = None,
    raw_moments: Moments | None = None,
    near: Linear | None = None,
    tol: float = 5e-6,
    max_iter: int = 500,
    memory: MemoryBudget = FRUGAL,
) -> dict[str, Any]:
    """Fits one logistic head for each penalty in `l2s` and hands them to `take`, strong penalties first.

    Args:
        features: (N, D) floating point; float64 is computed in float64, everything else in float32, by the chunk.
        labels: (N,) int64 in [0, K); a class may be absent: its probability is then 0.
        take: is given each solution as soon as it is there; what it does not keep is forgotten.
        num_classes: K, at least 2.
        l2s: L penalties, each > 0.
        normalization: a key of NORMALIZATIONS, "pca:C" or both ("block-rms+pca:C"), fitted on the rows used.
        blocks: which columns belong to which backbone, for the normalisations that go by backbone and for large D.
        rows: the rows to fit on; None means all. Nothing is copied by choosing rows.
        raw_moments: moments of the unnormalised rows with their Gram matrix, when the caller has them (N >= D).
        near: weights (K, D) and biases (K,) of a solution to start from, such as one on part of the rows, in the same
            normalisation; used where it can be (not by samples, no class that it lacks).
        tol: relative decrease of the objective below which a penalty is finished.
        max_iter: iterations after which a penalty is given up as not converged.
        memory: what it may hold beside the features; decides how it is solved, and nothing else.

    Returns:
        How it was solved: "coordinates" by "columns", "blocks" (of which "num_blocks") or "samples"; the "samples"
        "kept" or "streamed"; "penalties_at_once"; "memory_limit" in bytes or None.

    Raises:
        FeatureError: features of the wrong shape, or not finite.
        RichrepError: `memory` is too small for one penalty.
        ValueError: labels out of range, fewer than two classes present, a penalty that is not > 0.

    Source: Böhning, Multinomial logistic regression algorithm, 1992 (the bound); the rest is ours.
    """
    penalties = torch.as_tensor(l2s, dtype=torch.float64, device=features.device)
    if penalties.ndim != 1 or len(penalties) == 0 or not bool(((penalties > 0) & penalties.isfinite()).all()):
        raise ValueError(f"l2 must be > 0 and finite for every penalty, got {list(l2s)}.")
    check_features(features)
    check_labels(labels, num_rows=len(features), num_classes=num_classes)
    used = labels if rows is None else labels[rows]
    present, dense = torch.unique(used, return_inverse=True)
    if len(present) < 2:
        raise ValueError(f"fitting needs at least two classes, got {len(present)} among {len(used)} training rows.")
    if near is not None:
        near = near[0].to(features.device), near[1].to(features.device)
    before, num_components = split_pca(normalization)
    if num_components:
        pca = fit_pca(features, rows, before=before, num_components=num_components, blocks=blocks, memory=memory)
        return solve_logistic_path(
            pca.project(features, rows, memory=memory),
            used,
            lambda point: take(_unprojected(point, pca)),
            num_classes=num_classes,
            l2s=l2s,
            near=pca.unfold(*near) if near is not None and pca.folds else None,
            tol=tol,
            max_iter=max_iter,
            memory=memory,
        )
    if num_classes == 2:
        penalties = penalties * 2  # (l2/2)‖w‖² of the difference w is l2·‖W‖² of the two symmetric rows
    threshold = 1e-4 * float(penalties.min())  # what is dropped changes the objective by at most 3e-5 of itself
    fitted, coordinates = choose_coordinates(
        as_rows(features, rows), normalization, blocks, threshold=threshold, raw_moments=raw_moments, memory=memory
    )
    schedule = make_schedule(
        len(penalties),
        shape=(len(present), len(coordinates.bound), len(coordinates.mean)),
        itemsize=coordinates.samples.dtype.itemsize,
        budget=memory,
        on_cpu=features.device.type == "cpu",
    )
    with worker_threads(schedule.workers) as workers:
        scales = (coordinates.bound / 2 + penalties[:, None]).rsqrt().to(coordinates.samples.dtype)  # (L, r)
        objective = Objective(coordinates.samples, dense, scales, penalties, workers, memory.chunk_values // 2)
        start = Start(objective, dense)
        if near is not None:
            start.begin_near((near[0][present], near[1][present]), fitted, coordinates)
        handover = Handover(coordinates, fitted, objective, present, num_classes, list(l2s), take)
        waiting: list[Solved] = []
        has_tf32 = features.device.type == "cuda" and scales.dtype == torch.float32
        rough = objective.with_tf32() if has_tf32 else None
        for solved in solve_path(objective, start, schedule, tol=tol, max_iter=max_iter, rough=rough):
            waiting.append(solved)
            if len(waiting) == schedule.results:
                handover(waiting)
        handover(waiting)
    return {
        "coordinates": coordinates.kind,
        "num_blocks": coordinates.num_blocks,
        "samples": "streamed" if isinstance(coordinates.samples, StreamedSamples) else "kept",
        "penalties_at_once": schedule.group,
        "memory_limit": memory.limit,
    }


def _unprojected(point: PathPoint, pca: Pca) -> PathPoint:
    """A head on the components as one on the features, or, where the projection does not fold, on its output."""
    if not pca.folds:
        return replace(point, normalization=pca)
    weights, biases = pca.fold(point.weights, point.biases)
    return replace(point, weights=weights, biases=biases, normalization=pca)
