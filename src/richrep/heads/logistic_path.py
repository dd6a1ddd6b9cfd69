"""Multinomial logistic regression for many penalties at once.

Objective of one penalty: `(1/N) Σ cross-entropy + (l2/2)·‖W‖²`, bias unpenalised; scikit-learn's `C = 1/(N·l2)`.
For two classes W is one row (the difference of the logits), as in scikit-learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from richrep.features.feature_set import Block
from richrep.features.normalize import PER_IMAGE, Moments, Normalization, fit_normalization, moments
from richrep.features.pca import Pca, fit_pca, split_pca
from richrep.features.threads import Workers, worker_threads
from richrep.heads.coordinates import Coordinates, dual_coordinates, primal_coordinates, to_columns
from richrep.heads.head import check_features, check_labels
from richrep.heads.objective import Objective
from richrep.heads.path_solver import solve_path

Linear = tuple[torch.Tensor, torch.Tensor]  # weights (K, D), biases (K,)

_MAX_WORKERS = 8  # more would wait for the interpreter


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
    """

    l2s: torch.Tensor
    weights: torch.Tensor
    biases: torch.Tensor
    objectives: torch.Tensor
    iterations: torch.Tensor
    converged: torch.Tensor
    normalization: Normalization | Pca

    def logits(self, features: torch.Tensor, index: int) -> torch.Tensor:
        """Scores (N, K) of features (N, D) under penalty `index`."""
        values = features.to(self.weights)  # the type it was fitted in; float16 would overflow in the norms
        values = values if self.normalization.folds else self.normalization.apply(values)
        return torch.addmm(self.biases[index], values, self.weights[index].T)


def _make_objective(
    coordinates: Coordinates, labels: torch.Tensor, penalties: torch.Tensor, workers: Workers
) -> tuple[Objective, torch.Tensor]:
    """The objective, and the start (L, K, r + 1): weights 0 and the bias that is best then, the log class frequency."""
    spectrum, dtype = coordinates.spectrum, coordinates.samples.dtype
    scales = (spectrum / 2 + penalties[:, None]).rsqrt().to(dtype)  # (L, r)
    objective = Objective(coordinates.samples, labels, scales, penalties, workers)
    shape = (len(penalties), objective.num_classes, len(spectrum) + 1)
    start = torch.zeros(shape, dtype=dtype, device=labels.device)
    start[..., -1] = torch.bincount(labels).to(dtype).div(len(labels)).log() / 2**0.5
    return objective, start


def _start_near(
    start: torch.Tensor, near: Linear, fitted: Normalization, coordinates: Coordinates, objective: Objective
) -> None:
    """Overwrites `start` (L, K, r + 1) with the solution `near`, if that is finite."""
    weights, biases = (tensor.to(torch.float64) for tensor in near)
    if not bool(biases.isfinite().all()):
        return
    if fitted.folds:
        weights = weights / fitted.scale
    on_coordinates = (weights.to(start.dtype) @ coordinates.basis) / objective.scales[:, None]  # (L, K, r)
    start[..., :-1] = on_coordinates
    start[..., -1] = (biases + weights @ coordinates.mean).to(start.dtype) / 2**0.5


def fit_logistic_path(
    features: torch.Tensor,
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
) -> LogisticPath:
    """One logistic head for each penalty in `l2s`, fitted together.

    Args:
        features: (N, D) floating point; float64 is computed in float64, everything else in float32.
        labels: (N,) int64 in [0, K); a class may be absent: its probability is then 0.
        num_classes: K, at least 2.
        l2s: L penalties, each > 0.
        normalization: a key of NORMALIZATIONS, "pca:C" or both ("block-rms+pca:C"), fitted on the rows used.
        blocks: which columns belong to which backbone, for the normalisations that go by backbone.
        rows: the rows to fit on; None means all. Nothing is copied by choosing rows.
        raw_moments: moments of the unnormalised rows with their Gram matrix, when the caller has them (N >= D).
        near: weights (K, D) and biases (K,) of a solution to start from, such as one on part of the rows, in the same
            normalisation; used where it can be (N >= D, no class that it lacks).
        tol: relative decrease of the objective below which a penalty is finished.
        max_iter: iterations after which a penalty is given up as not converged.

    Raises:
        FeatureError: features of the wrong shape, or not finite.
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
    if features.dtype not in (torch.float32, torch.float64):
        features = features.to(torch.float32)
    before, num_components = split_pca(normalization)
    if num_components:
        pca = fit_pca(features, rows, before=before, num_components=num_components, blocks=blocks)
        options = {"num_classes": num_classes, "l2s": l2s, "tol": tol, "max_iter": max_iter}
        return _fit_on_components(pca, features, used, rows, near=near, **options)

    if num_classes == 2:
        penalties = penalties * 2  # (l2/2)‖w‖² of the difference w is l2·‖W‖² of the two symmetric rows
    threshold = 1e-4 * float(penalties.min())  # what is dropped changes the objective by at most 3e-5 of itself
    fitted, coordinates = _coordinates(
        features, rows, normalization, blocks, threshold=threshold, raw_moments=raw_moments
    )
    with worker_threads(min(torch.get_num_threads(), _MAX_WORKERS)) as workers:
        objective, start = _make_objective(coordinates, dense, penalties, workers)
        if near is not None and not coordinates.is_dual:
            _start_near(start, (near[0][present], near[1][present]), fitted, coordinates, objective)
        found = solve_path(objective, start, tol=tol, max_iter=max_iter)
    weights, biases = objective.unpack(torch.arange(len(penalties), device=features.device), found.points)
    count, classes, _ = weights.shape
    columns = to_columns(coordinates, weights.flatten(0, 1), features, rows, fitted)  # (L·K', D)
    offsets = biases.reshape(-1).to(torch.float64) - columns @ coordinates.mean
    if fitted.folds:
        columns = columns * fitted.scale
    all_weights = torch.zeros(count, num_classes, features.shape[1], dtype=features.dtype, device=features.device)
    all_biases = torch.full((count, num_classes), -torch.inf, dtype=features.dtype, device=features.device)
    all_weights[:, present] = columns.view(count, classes, -1).to(features.dtype)
    all_biases[:, present] = offsets.view(count, classes).to(features.dtype)
    return LogisticPath(
        l2s=torch.as_tensor(l2s, dtype=torch.float64),
        weights=all_weights,
        biases=all_biases,
        objectives=found.values.cpu(),
        iterations=found.iterations,
        converged=found.converged,
        normalization=fitted,
    )


def _coordinates(
    features: torch.Tensor,
    rows: torch.Tensor | None,
    normalization: str,
    blocks: Sequence[Block] | None,
    *,
    threshold: float,
    raw_moments: Moments | None,
) -> tuple[Normalization, Coordinates]:
    """The fitted normalisation and the coordinates, by columns or by samples, whichever are fewer."""
    total = len(features) if rows is None else len(rows)
    is_primal = total >= features.shape[1]
    raw = raw_moments or moments(features, rows, with_gram=is_primal and normalization not in PER_IMAGE)
    fitted = fit_normalization(normalization, raw, blocks=blocks, dtype=features.dtype)
    if not is_primal:
        return fitted, dual_coordinates(features, rows, normalization=fitted, threshold=threshold)
    if fitted.folds:
        assert raw.gram is not None
        scaled = raw.gram if raw_moments is None else raw.gram.clone()  # it will be used up
        scaled.mul_(fitted.scale).mul_(fitted.scale[:, None])
        stats = Moments(raw.mean * fitted.scale, scaled, raw.variance * fitted.scale.square(), raw.num_rows)
    else:
        stats = moments(features, rows, with_gram=True, normalization=fitted)
    return fitted, primal_coordinates(features, rows, stats=stats, normalization=fitted, threshold=threshold)


def _fit_on_components(
    pca: Pca,
    features: torch.Tensor,
    labels: torch.Tensor,
    rows: torch.Tensor | None,
    *,
    near: Linear | None,
    **options: Any,
) -> LogisticPath:
    """The path on the principal components of the rows, whose `labels` these are, with its weights folded back."""
    start = pca.unfold(*near) if near is not None and pca.folds else None
    path = fit_logistic_path(pca.project(features, rows), labels, near=start, **options)
    if not pca.folds:
        return replace(path, normalization=pca)
    weights, biases = pca.fold(path.weights, path.biases)
    return replace(path, weights=weights, biases=biases, normalization=pca)
