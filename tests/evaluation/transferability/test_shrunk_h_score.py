"""The shrunk H-score against its definition with scikit-learn's estimator of Ledoit and Wolf."""

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf

from richrep.evaluation.transferability.h_score import h_score
from richrep.evaluation.transferability.inputs import UndefinedScoreError
from richrep.evaluation.transferability.shrunk_h_score import shrunk_h_score


def by_definition(features: np.ndarray, labels: np.ndarray) -> float:
    """tr(cov_a(f)⁻¹ (1 - a) cov(E[f|y])) with all covariances over N."""
    found = LedoitWolf().fit(features)
    means = np.stack([features[labels == label].mean(0) for label in labels])
    between = (1 - found.shrinkage_) * np.cov(means.T, bias=True)
    return float(np.trace(np.linalg.inv(found.covariance_) @ between))


@pytest.mark.parametrize(("n", "d"), [(40, 5), (12, 30)], ids=["N>D", "N<D"])
def test_it_is_the_trace_of_the_definition(n: int, d: int) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(n) % 3
    features = generator.normal(size=(n, d)) + generator.normal(size=(3, d))[labels] + 5
    score = shrunk_h_score(torch.from_numpy(features), torch.from_numpy(labels))
    assert score == pytest.approx(by_definition(features, labels), rel=1e-8)


def test_with_few_images_it_tells_signal_from_noise_where_the_plain_score_cannot() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(20) % 4
    noise = torch.randn(20, 50, generator=generator, dtype=torch.float64)
    signal = noise + 3 * torch.randn(4, 50, generator=generator, dtype=torch.float64)[labels]
    with pytest.raises(UndefinedScoreError, match="20 images in 19 directions"):
        h_score(signal, labels)
    assert shrunk_h_score(signal, labels) > 2 * shrunk_h_score(noise, labels)


def test_with_many_images_it_nears_the_plain_score() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(20_000) % 2
    features = torch.randn(20_000, 3, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 2.0, 4.0])
    features = features + labels[:, None]
    assert shrunk_h_score(features, labels) == pytest.approx(h_score(features, labels), rel=0.02)
