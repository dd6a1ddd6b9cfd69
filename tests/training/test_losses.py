from __future__ import annotations

from functools import partial
from math import log

import pytest
import torch
from torch.nn import functional as F

from richrep.training.losses import (
    cosine_feature_loss,
    cross_entropy_loss,
    distillation_loss,
    hard_label_loss,
    mse_feature_loss,
)

AGAINST_A_TEACHER = [
    partial(distillation_loss, temperature=2.0),
    hard_label_loss,
    cosine_feature_loss,
    mse_feature_loss,
]


def logits_of(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows).log()


def test_cross_entropy_by_hand() -> None:
    logits = logits_of((0.5, 0.25, 0.25), (0.1, 0.8, 0.1))
    expected = -(log(0.5) + log(0.8)) / 2
    assert cross_entropy_loss(logits, torch.tensor([0, 1])).item() == pytest.approx(expected)
    soft = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])
    expected = -(0.5 * log(0.5) + 0.5 * log(0.25) + log(0.8)) / 2
    assert cross_entropy_loss(logits, soft).item() == pytest.approx(expected)


@pytest.mark.parametrize("is_soft", [False, True])
def test_label_smoothing_spreads_a_part_over_all_classes(is_soft: bool) -> None:
    logits = logits_of((0.5, 0.25, 0.25))
    targets = torch.tensor([[1.0, 0.0, 0.0]]) if is_soft else torch.tensor([0])
    # s = 0.3: targets 0.7 + 0.1, 0.1, 0.1
    expected = -(0.8 * log(0.5) + 0.1 * log(0.25) + 0.1 * log(0.25))
    assert cross_entropy_loss(logits, targets, label_smoothing=0.3).item() == pytest.approx(expected)
    uniform = -(log(0.5) + 2 * log(0.25)) / 3
    assert cross_entropy_loss(logits, targets, label_smoothing=1.0).item() == pytest.approx(uniform)


def test_distillation_is_the_divergence_of_the_student_from_the_teacher_by_hand() -> None:
    student, teacher = logits_of((0.5, 0.5), (0.5, 0.5)), logits_of((0.9, 0.1), (0.5, 0.5))
    expected = (0.9 * log(0.9 / 0.5) + 0.1 * log(0.1 / 0.5)) / 2  # the second row agrees
    assert distillation_loss(student, teacher, temperature=1.0).item() == pytest.approx(expected, rel=1e-5)


def test_distillation_at_a_temperature_is_scaled_by_its_square() -> None:
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    p, q = (F.softmax(logits / 2.5, dim=1) for logits in (teacher, student))
    expected = 2.5**2 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(distillation_loss(student, teacher, temperature=2.5), expected)


def test_distillation_at_a_high_temperature_matches_centred_logits() -> None:
    # Hinton et al., equation 4: for large T the loss tends to sum((s - mean s - t + mean t)^2) / (2 K)
    student, teacher = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    difference = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    expected = difference.square().sum(1).mean() / (2 * 4)
    found = distillation_loss(student, teacher, temperature=1e4)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)


def test_hard_labels_are_the_teachers_favourites() -> None:
    student = logits_of((0.5, 0.25, 0.25), (0.1, 0.8, 0.1))
    teacher = torch.tensor([[0.0, 2.0, 1.0], [0.0, 5.0, 1.0]])
    assert hard_label_loss(student, teacher).item() == pytest.approx(-(log(0.25) + log(0.8)) / 2)


def test_feature_losses_by_hand() -> None:
    student, teacher = torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    # cosines 1 and 1 / sqrt(2)
    assert cosine_feature_loss(student, teacher).item() == pytest.approx((1 - 2**-0.5) / 2)
    assert mse_feature_loss(student, teacher).item() == pytest.approx((4 + 0 + 1 + 1) / 4)


@pytest.mark.parametrize("loss", AGAINST_A_TEACHER)
def test_only_the_student_learns(loss: object) -> None:
    student, teacher = (torch.randn(3, 4, requires_grad=True) for _ in range(2))
    loss(student, teacher).backward()  # type: ignore[operator]
    assert student.grad is not None
    assert teacher.grad is None


@pytest.mark.parametrize("loss", [*AGAINST_A_TEACHER, cross_entropy_loss])
def test_shapes_that_torch_would_broadcast_are_refused(loss: object) -> None:
    with pytest.raises(ValueError, match=r"one shape with two dimensions, got \(4, 3\) and \(4, 1\)"):
        loss(torch.zeros(4, 3), torch.zeros(4, 1))  # type: ignore[operator]


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature must be > 0, got 0"):
        distillation_loss(torch.zeros(1, 2), torch.zeros(1, 2), temperature=0)
