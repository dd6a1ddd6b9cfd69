"""LogME: how well a Bayesian linear model of the labels explains them."""

from __future__ import annotations

import math

import numpy as np
import scipy.optimize
import torch

from richrep.evaluation.transferability.inputs import along_principal_directions, as_float64, one_hot

_GRID = np.linspace(math.log(1e-12), math.log(1e12), 112)  # of log(α/β) beside the largest eigenvalue; steps of ½


def logme(features: torch.Tensor, labels: torch.Tensor) -> float:
    """LogME: log evidence per image of a Bayesian linear model of the labels.

    Of features F (N, D) and labels (N,): for the one-hot column y of each class y = F·w + noise, w ~ N(0, 1/α),
    noise ~ N(0, 1/β), and the largest log p(y | F, α, β)/N over α and β; their mean over the classes.

    Source: You, Liu, Wang, Long, LogME: Practical Assessment of Pre-trained Models for Transfer Learning, 2021,
    https://arxiv.org/abs/2102.11005, equation 2. Differs: the maximum is searched for, on a grid of α/β and then
    between its points; the paper's fixed-point iteration stops at 1 % of α/β and may end beside the maximum.
    """
    values = as_float64(features, labels)
    targets = one_hot(labels)  # (N, K)
    eigenvalues, explained = along_principal_directions(values, targets)
    spectrum, projected = eigenvalues.numpy(force=True), explained.numpy(force=True)  # (r,), (r, K)
    outside = (targets.sum(0).numpy(force=True) - projected.sum(0)).clip(min=0)  # (K,), of ‖y‖², orthogonal to F
    evidences = [
        _max_evidence(spectrum, inside, float(rest), len(labels))
        for inside, rest in zip(projected.T, outside, strict=True)
    ]
    return float(np.mean(evidences)) / len(labels)


def _max_evidence(spectrum: np.ndarray, projected: np.ndarray, outside: float, num_rows: int) -> float:
    """The largest log evidence of one target.

    With t = α/β the best β is N/(‖y - Fm‖² + t‖m‖²), which leaves one number to search for.
    """

    def negative(log_t: float) -> float:
        kept = math.exp(log_t) / (spectrum + math.exp(log_t))  # (r,), share of each direction that is left as noise
        misfit = float(projected @ kept) + outside  # ‖y - Fm‖² + t‖m‖²
        beta = num_rows / max(misfit, np.finfo(float).tiny)
        log_evidence = num_rows * (math.log(beta) - 1 - math.log(2 * math.pi)) + float(np.log(kept).sum())
        return -log_evidence / 2

    grid = _GRID + math.log(float(spectrum.max()))
    best = int(np.argmin([negative(log_t) for log_t in grid]))
    low, high = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
    found = scipy.optimize.minimize_scalar(negative, bounds=(low, high), method="bounded")
    return -min(float(found.fun), negative(float(grid[best])))
