"""NCE against the entropies scikit-learn and scipy compute, and by hand."""

import math

import pytest
import torch
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score

from richrep.evaluation.transferability.nce import nce


def test_it_is_minus_what_remains_of_the_labels_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    probs = torch.randn(50, 6, generator=generator, dtype=torch.float64).softmax(1)
    labels = torch.randint(0, 4, (50,), generator=generator)
    of_labels = entropy(torch.bincount(labels).numpy() / 50)  # H(Y|Z) = H(Y) - I(Y; Z)
    expected = mutual_info_score(labels.numpy(), probs.argmax(1).numpy()) - of_labels
    assert nce(probs, labels) == pytest.approx(expected, rel=1e-9)


def test_four_images_by_hand() -> None:
    # z = 0 has labels 0 and 1, one of each; z = 1 has two of label 1: H(Y|Z) = ½·log 2 + ½·0
    probs = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.0, 1.0]])
    assert nce(probs, torch.tensor([0, 1, 1, 1])) == pytest.approx(-math.log(2) / 2)
