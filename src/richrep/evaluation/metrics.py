"""Metrics: logits (N, K) or predictions (N,), and labels (N,) -> a float; pure functions, fractions in [0, 1].

Every function takes tensors of any device and computes in float64 on the CPU. An undefined score (no images) is an
error, never 0. Ties between logits go to the lower class index, as in `torch.argmax`; so top-1 equals accuracy and
top-k never falls when k grows.

A logit of -inf says that a class has probability exactly 0 and is allowed; NaN, +inf and a row of -inf are errors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

# A true class of probability 0 would make the mean nll infinite; it counts as the smallest normal float64 instead,
# -ln(2.2e-308) = 708.4 nats. Probabilities above that are not touched.
NLL_FLOOR = float(np.finfo(np.float64).tiny)
NUM_ECE_BINS = 15  # Guo et al. 2017, tables 1 and 2
CHUNK_VALUES = 2**20  # logits in float64 at once, 8 MiB


def accuracy(*, preds: Tensor, labels: Tensor) -> float:
    """Fraction of `preds` (N,) that equal `labels` (N,)."""
    _check_preds(preds, labels)
    return float((preds.cpu() == labels.cpu()).double().mean())


def mean_per_class_accuracy(*, preds: Tensor, labels: Tensor) -> float:
    """Mean over classes of the fraction of each class's images that are right (macro recall, balanced accuracy).

    A class without an image in `labels` (N,) has no accuracy and is left out of the mean.

    >>> mean_per_class_accuracy(preds=torch.tensor([0, 0, 0, 1, 0]), labels=torch.tensor([0, 0, 0, 0, 1]))
    0.375
    """
    _check_preds(preds, labels)
    preds, labels = preds.cpu(), labels.cpu()
    counts = torch.bincount(labels)  # (K,)
    right = torch.bincount(labels[preds == labels], minlength=len(counts))  # (K,)
    present = counts > 0
    return float((right[present].double() / counts[present]).mean())


def top_k_accuracy(*, logits: Tensor, labels: Tensor, k: int = 5) -> float:
    """Fraction of images whose label is among the k classes of largest logit.

    With fewer than k classes all count: min(k, K), so the result is 1. Ties go to the lower class index.
    """
    _check_logits(logits, labels)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    labels = labels.to(logits.device).long().unsqueeze(1)  # (N, 1)
    found = 0
    for rows in _row_chunks(logits):
        label_logits = logits[rows].gather(1, labels[rows])  # (B, 1)
        lower_index = torch.arange(logits.shape[1], device=logits.device) < labels[rows]  # (B, K)
        ahead = (logits[rows] > label_logits) | ((logits[rows] == label_logits) & lower_index)  # (B, K)
        found += int((ahead.sum(1) < k).sum())
    return found / len(labels)


def nll(*, logits: Tensor, labels: Tensor) -> float:
    """Mean negative log probability (nats) of the true class; smaller is better, >= 0.

    A true class of probability below 2.2e-308, the smallest normal float64, counts as that (708.4 nats).
    """
    _check_logits(logits, labels)
    label_log_probs, _ = _log_probs(logits, labels)
    return float(-label_log_probs.clamp(min=math.log(NLL_FLOOR)).mean()) + 0.0  # + 0.0: never -0.0


def ece(*, logits: Tensor, labels: Tensor, num_bins: int = NUM_ECE_BINS) -> float:
    """Expected calibration error: mean gap between confidence and accuracy over equal-width bins of confidence.

    Bin m holds the images with confidence (largest probability) in ((m - 1)/num_bins, m/num_bins].

    Source: Guo, Pleiss, Sun, Weinberger, On Calibration of Modern Neural Networks, 2017, equation 3,
    https://arxiv.org/abs/1706.04599.
    """
    _check_logits(logits, labels)
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}.")
    _, log_confidences = _log_probs(logits, labels)
    confidences = log_confidences.exp()  # (N,)
    correct = (logits.argmax(1).cpu() == labels.cpu()).double()
    bins = (confidences * num_bins).ceil().long().sub(1).clamp(0, num_bins - 1)
    gaps = torch.bincount(bins, weights=correct - confidences, minlength=num_bins)  # (num_bins,), |B_m|·(acc - conf)
    return float(gaps.abs().sum() / len(labels))


def log_odds(accuracy: float, *, num_images: int) -> float:
    """ln(p / (1 - p)) of the accuracy p over `num_images`; p is clipped at half of one image.

    So 0 and 1 give the finite values of 0.5/N and 1 - 0.5/N. To average over seeds, average the accuracies first.

    Source: Kornblith, Shlens, Le, Do Better ImageNet Models Transfer Better?, 2019, https://arxiv.org/abs/1805.08974;
    naver/trex. Differs: clipped, theirs is infinite at 1 and undefined at 0.

    >>> round(log_odds(0.75, num_images=100), 4)
    1.0986
    """
    if num_images < 1:
        raise ValueError(f"num_images must be at least 1, got {num_images}; the log odds of no images are undefined.")
    if not 0 <= accuracy <= 1:
        raise ValueError(f"accuracy must be a fraction in [0, 1], got {accuracy}. Divide a percentage by 100.")
    half_image = 0.5 / num_images
    p = min(max(accuracy, half_image), 1 - half_image)
    return math.log(p / (1 - p))


def bootstrap_interval(
    correct: Tensor, *, num_resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of an accuracy over resampled test images.

    The number right among N images drawn with replacement is Binomial(N, p), p the measured accuracy; it is drawn
    so, which is the bootstrap exactly, not an approximation. At p = 0 and p = 1 every resample is alike and the
    interval has no width: it speaks of these images, not of the error a larger test set would show.

    Args:
        correct: (N,) bool, which test images are right.
        level: coverage, in (0, 1).

    Source: Efron, Bootstrap Methods: Another Look at the Jackknife, 1979.
    """
    _check_correct(correct)
    _check_resampling(num_resamples, level)
    num_images = len(correct)
    rng = np.random.default_rng(seed)
    num_right = rng.binomial(num_images, int(correct.sum()) / num_images, size=num_resamples)
    return _percentiles(num_right / num_images, level)


def paired_bootstrap_interval(
    correct_a: Tensor, correct_b: Tensor, *, num_resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of accuracy(a) - accuracy(b), both on the same N images.

    An image drawn counts for both, so what a and b have in common cancels. Only images where one is right and the
    other wrong matter: their numbers in a resample are multinomial and are drawn so, which is exact.

    Args:
        correct_a: (N,) bool, which test images a has right.
        correct_b: (N,) bool, the same images in the same order.
        level: coverage, in (0, 1).
    """
    _check_correct(correct_a)
    _check_correct(correct_b)
    if correct_a.shape != correct_b.shape:
        raise ValueError(
            f"correct_a and correct_b must be of the same images, got {len(correct_a)} and {len(correct_b)} of them."
        )
    _check_resampling(num_resamples, level)
    num_images = len(correct_a)
    only_a = int((correct_a & ~correct_b).sum())
    only_b = int((correct_b & ~correct_a).sum())
    fractions = np.array([only_a, only_b, num_images - only_a - only_b]) / num_images
    draws = np.random.default_rng(seed).multinomial(num_images, fractions, size=num_resamples)  # (num_resamples, 3)
    return _percentiles((draws[:, 0] - draws[:, 1]) / num_images, level)


def repeats_interval(values: Sequence[float], *, level: float = 0.95) -> tuple[float, float]:
    """Student's interval (low, high) of the mean of `values`, one a repeat: mean ± t·s/√R, s the sample deviation.

    >>> low, high = repeats_interval([0.5, 0.6, 0.7])  # t = 4.303 for two degrees of freedom, s = 0.1
    >>> round(low, 3), round(high, 3)
    (0.352, 0.848)
    """
    if len(values) < 2:
        raise ValueError(f"an interval over repeats needs at least two of them, got {len(values)}.")
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return float(np.mean(values) - half), float(np.mean(values) + half)


def score(logits: Tensor, labels: Tensor, num_classes: int) -> dict[str, Any]:
    """Every metric of logits (N, K) against labels (N,), under the names a record uses.

    Returns:
        accuracy, accuracy_ci95 [low, high], mean_per_class_accuracy, top5_accuracy, nll, ece, log_odds.

    Raises:
        ValueError: no images, K is not `num_classes`, a label outside [0, K), or a logit that is NaN or +inf.
    """
    _check_logits(logits, labels)
    if logits.shape[1] != num_classes:
        raise ValueError(f"logits must have num_classes = {num_classes} columns, got shape {tuple(logits.shape)}.")
    preds, labels = logits.argmax(1).cpu(), labels.cpu()
    fraction_right = accuracy(preds=preds, labels=labels)
    return {
        "accuracy": fraction_right,
        "accuracy_ci95": list(bootstrap_interval(preds == labels)),
        "mean_per_class_accuracy": mean_per_class_accuracy(preds=preds, labels=labels),
        "top5_accuracy": top_k_accuracy(logits=logits, labels=labels, k=5),
        "nll": nll(logits=logits, labels=labels),
        "ece": ece(logits=logits, labels=labels),
        "log_odds": log_odds(fraction_right, num_images=len(labels)),
    }


def _log_probs(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Log probability of the label (N,) and of the likeliest class (N,), in chunks of rows to bound memory."""
    of_label, of_best = [], []
    for rows in _row_chunks(logits):
        log_probs = logits[rows].detach().to("cpu", torch.float64).log_softmax(1)  # (B, K)
        of_label.append(log_probs.gather(1, labels[rows].cpu().long().unsqueeze(1)).squeeze(1))
        of_best.append(log_probs.amax(1))
    return torch.cat(of_label), torch.cat(of_best)


def _row_chunks(logits: Tensor) -> Iterator[slice]:
    """Rows of logits (N, K), few where there are many classes."""
    step = max(1, CHUNK_VALUES // logits.shape[1])
    return (slice(start, start + step) for start in range(0, len(logits), step))


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _check_labels(labels: Tensor) -> None:
    if labels.ndim != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers of shape (N,), got {labels.dtype} of shape {tuple(labels.shape)}.")
    if len(labels) == 0:
        raise ValueError("labels are empty; a score over no images is undefined. Check the split.")
    if int(labels.min()) < 0:
        raise ValueError(f"labels must be class indices in [0, K), got {int(labels.min())}.")


def _check_preds(preds: Tensor, labels: Tensor) -> None:
    if preds.shape != labels.shape:
        raise ValueError(
            f"preds and labels must have the same shape (N,), got {tuple(preds.shape)} and {tuple(labels.shape)}."
        )
    _check_labels(labels)


def _check_logits(logits: Tensor, labels: Tensor) -> None:
    _check_labels(labels)
    if logits.ndim != 2 or len(logits) != len(labels) or logits.shape[1] < 1:
        raise ValueError(
            f"logits must have shape (N, K) with N = {len(labels)}, one row per label, got {tuple(logits.shape)}."
        )
    if int(labels.max()) >= logits.shape[1]:
        raise ValueError(f"labels must lie in [0, K) with K = {logits.shape[1]}, got {int(labels.max())}.")
    # The largest logit of a row is finite exactly when the row has no NaN, no +inf and at least one finite value.
    bad = (~logits.amax(1).isfinite()).nonzero().flatten()
    if len(bad):
        row = int(bad[0])
        raise ValueError(
            f"logits must be finite (or -inf for a class of probability 0), but {len(bad)} of {len(logits)} rows are "
            f"not; the first is row {row}, largest value {float(logits[row].amax())}. Check the features and the head."
        )


def _check_correct(correct: Tensor) -> None:
    if correct.ndim != 1 or correct.dtype != torch.bool:
        raise ValueError(f"correct must be bool of shape (N,), got {correct.dtype} of shape {tuple(correct.shape)}.")
    if len(correct) == 0:
        raise ValueError("correct is empty; an interval over no images is undefined. Check the split.")


def _check_resampling(num_resamples: int, level: float) -> None:
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be at least 1, got {num_resamples}.")
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}.")
