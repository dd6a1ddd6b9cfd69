"""Linear CKA against its definition by kernel matrices, and at its ends."""

import numpy as np
import pytest
import torch

from richrep.evaluation.transferability.cka import label_cka


@pytest.mark.parametrize(("n", "d"), [(20, 4), (9, 15)], ids=["N>D", "N<D"])
def test_it_is_the_aligned_part_of_two_centred_kernels(n: int, d: int) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(n) % 3
    features = generator.normal(size=(n, d)) + generator.normal(size=(3, d))[labels] + 2
    centring = np.eye(n) - 1 / n
    one, two = (centring @ kernel @ centring for kernel in (features @ features.T, labels[:, None] == labels))
    expected = (one * two).sum() / np.sqrt((one * one).sum() * (two * two).sum())  # HSIC(K, L)/√(HSIC(K)·HSIC(L))
    assert label_cka(torch.from_numpy(features), torch.from_numpy(labels)) == pytest.approx(expected, rel=1e-10)


def test_features_that_are_the_labels_have_1_and_features_that_know_nothing_of_them_0() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    assert label_cka(torch.eye(3)[labels], labels) == pytest.approx(1)
    assert label_cka(torch.tensor([[1.0], [-1.0]] * 3), labels) == pytest.approx(0, abs=1e-12)


def test_scale_and_offset_change_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(30, 3, generator=generator, dtype=torch.float64), torch.arange(30) % 3
    assert label_cka(100 * features + 7, labels) == pytest.approx(label_cka(features, labels))
