"""LEEP against its definition with loops, and by hand."""

import math

import pytest
import torch

from richrep.evaluation.transferability.leep import leep


def by_definition(probs: list[list[float]], labels: list[int]) -> float:
    """Section 3 of the paper, one step after the other."""
    n, num_source, num_classes = len(labels), len(probs[0]), max(labels) + 1
    joint = [[0.0] * num_source for _ in range(num_classes)]
    for theta, y in zip(probs, labels, strict=True):
        for z in range(num_source):
            joint[y][z] += theta[z] / n
    marginal = [sum(joint[y][z] for y in range(num_classes)) for z in range(num_source)]
    total = 0.0
    for theta, y in zip(probs, labels, strict=True):
        total += math.log(sum(joint[y][z] / marginal[z] * theta[z] for z in range(num_source)))
    return total / n


def test_it_is_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    probs = torch.randn(25, 7, generator=generator, dtype=torch.float64).softmax(1)
    labels = torch.randint(0, 4, (25,), generator=generator)
    assert leep(probs, labels) == pytest.approx(by_definition(probs.tolist(), labels.tolist()), rel=1e-12)


def test_three_images_by_hand() -> None:
    # Source class 0 is seen with labels 0 and 0, class 1 with 1: every image is told for sure, log 1 = 0.
    sure = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert leep(sure, torch.tensor([0, 0, 1])) == pytest.approx(0)
    # All three in source class 0 but for a trace: P(0|z) = 2/3, P(1|z) = 1/3.
    blind = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0 - 1e-12, 1e-12]], dtype=torch.float64)
    assert leep(blind, torch.tensor([0, 0, 1])) == pytest.approx((2 * math.log(2 / 3) + math.log(1 / 3)) / 3)


def test_a_source_class_that_no_image_has_weighs_nothing() -> None:
    probs = torch.tensor([[0.7, 0.3, 0.0], [0.2, 0.8, 0.0], [0.6, 0.4, 0.0]])
    labels = torch.tensor([0, 1, 0])
    assert leep(probs, labels) == pytest.approx(leep(probs[:, :2], labels))
