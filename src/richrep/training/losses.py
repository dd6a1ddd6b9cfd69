"""Losses as pure functions: logits or features (B, …) and targets in, one scalar out, the mean over the batch."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def cross_entropy_loss(logits: torch.Tensor, targets: torch.Tensor, *, label_smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy of logits (B, K) with labels (B,) or with soft targets (B, K), whose rows sum to 1.

    Args:
        label_smoothing: in [0, 1]: targets become (1 - s) target + s / K.

    Source: label smoothing as in Szegedy et al., 2016, https://arxiv.org/abs/1512.00567, section 7.
    """
    if targets.ndim == 2:
        _check_same_shape("logits", logits, "soft targets", targets)
    return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)


def distillation_loss(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, *, temperature: float
) -> torch.Tensor:
    """temperature^2 KL(teacher || student) between softmax(logits / temperature), both logits (B, K).

    The square keeps the gradient's size when the temperature changes. No gradient flows to the teacher.

    Source: Hinton, Vinyals, Dean. Distilling the knowledge in a neural network, 2015, https://arxiv.org/abs/1503.02531,
    section 2.
    """
    _check_same_shape("student logits", student_logits, "teacher logits", teacher_logits)
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}.")
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.detach() / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def hard_label_loss(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """Cross-entropy with the class that the teacher prefers, both logits (B, K).

    Source: Zhang, Lopez-Paz, Bottou. Rich feature construction for the optimization-generalization dilemma (RFC), 2022,
    https://arxiv.org/abs/2203.15516, the synthesis phase.
    """
    _check_same_shape("student logits", student_logits, "teacher logits", teacher_logits)
    return F.cross_entropy(student_logits, teacher_logits.argmax(dim=1))


def cosine_feature_loss(student_features: torch.Tensor, teacher_features: torch.Tensor) -> torch.Tensor:
    """1 - cosine similarity of features (B, D), in [0, 2]. No gradient flows to the teacher."""
    _check_same_shape("student features", student_features, "teacher features", teacher_features)
    return (1 - F.cosine_similarity(student_features, teacher_features.detach(), dim=1)).mean()


def mse_feature_loss(student_features: torch.Tensor, teacher_features: torch.Tensor) -> torch.Tensor:
    """Squared difference of features (B, D), the mean over rows and columns. No gradient flows to the teacher.

    Source: as FitNets, Romero et al., 2015, https://arxiv.org/abs/1412.6550, equation 3, up to a constant factor.
    """
    _check_same_shape("student features", student_features, "teacher features", teacher_features)
    return F.mse_loss(student_features, teacher_features.detach())


def _check_same_shape(name: str, values: torch.Tensor, other: str, others: torch.Tensor) -> None:
    """Because torch would broadcast, or take a (B, 1) for classes, without a word."""
    if values.ndim != 2 or values.shape != others.shape:
        raise ValueError(
            f"{name} and {other} must have one shape with two dimensions, got {tuple(values.shape)} and "
            f"{tuple(others.shape)}."
        )
