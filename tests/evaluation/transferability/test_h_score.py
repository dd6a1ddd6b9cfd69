"""The H-score against its definition, and by hand."""

import numpy as np
import pytest
import torch

from richrep.evaluation.transferability.h_score import h_score
from richrep.evaluation.transferability.inputs import UndefinedScoreError


def by_definition(features: np.ndarray, labels: np.ndarray) -> float:
    """tr(pinv(cov(f)) cov(g)), g holding for each image the mean of its class."""
    means = np.stack([features[labels == label].mean(0) for label in labels])
    return float(np.trace(np.linalg.pinv(np.cov(features.T), rcond=1e-12, hermitian=True) @ np.cov(means.T)))


@pytest.mark.parametrize(("n", "d"), [(40, 5), (10, 8)], ids=["N>D", "N about D"])
def test_it_is_the_trace_of_the_definition(n: int, d: int) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(n) % 3
    features = generator.normal(size=(n, d)) + generator.normal(size=(3, d))[labels] + 5
    score = h_score(torch.from_numpy(features), torch.from_numpy(labels))
    assert score == pytest.approx(by_definition(features, labels), rel=1e-8)


def test_columns_that_are_zero_or_repeated_are_left_to_the_pseudo_inverse() -> None:
    generator = np.random.default_rng(1)
    labels = np.arange(30) % 3
    features = generator.normal(size=(30, 4)) + generator.normal(size=(3, 4))[labels]
    more = np.concatenate([features, 0 * features, features[:, :1]], axis=1)
    one, two = (h_score(torch.from_numpy(values), torch.from_numpy(labels)) for values in (features, more))
    assert two == pytest.approx(one, rel=1e-8) == by_definition(more, labels)


def test_one_feature_by_hand() -> None:
    # Values 0, 2, 4, 6, means 1 and 5: the variance is 5, that of the means 4 (all with 1/N), so H = 4/5.
    score = h_score(torch.tensor([[0.0], [2.0], [4.0], [6.0]]), torch.tensor([0, 0, 1, 1]))
    assert score == pytest.approx(0.8)


def test_it_is_at_most_the_number_of_classes_less_one() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(12) % 4
    separated = torch.randn(12, 3, generator=generator) * 1e-4 + torch.randn(4, 3, generator=generator)[labels]
    assert 2.99 < h_score(separated, labels) <= 3 + 1e-9


@pytest.mark.parametrize("dim", [11, 30])
def test_as_many_directions_as_images_leave_it_undefined(dim: int) -> None:
    generator = torch.Generator().manual_seed(0)
    noise, labels = torch.randn(12, dim, generator=generator), torch.arange(12) % 4
    assert by_definition(noise.double().numpy(), labels.numpy()) == pytest.approx(3)  # of noise, the best there is
    with pytest.raises(UndefinedScoreError, match=r"12 images in 11 directions give 3 for any features\. Use more"):
        h_score(noise, labels)
    few = torch.cat([noise[:, :4]] * 5, 1)  # more columns than images, and yet few directions
    assert h_score(few, labels) == pytest.approx(h_score(noise[:, :4], labels), rel=1e-6)
