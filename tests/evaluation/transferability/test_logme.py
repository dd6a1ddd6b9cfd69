"""LogME against the evidence it maximises, written as the density of a multivariate normal distribution."""

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch

from richrep.evaluation.transferability.logme import logme


def log_evidence(features: np.ndarray, target: np.ndarray, alpha: float, beta: float) -> float:
    """log p(y | F, α, β): y is normal with mean 0 and covariance I/β + F·Fᵀ/α, w being integrated out."""
    covariance = np.eye(len(target)) / beta + features @ features.T / alpha
    return float(scipy.stats.multivariate_normal(np.zeros(len(target)), covariance).logpdf(target))


def by_definition(features: np.ndarray, labels: np.ndarray) -> float:
    """The evidence maximised over log α and log β by Nelder and Mead, from several starts, class by class."""
    scores = []
    for k in np.unique(labels):
        target = (labels == k).astype(float)
        found = [
            scipy.optimize.minimize(
                lambda at, target=target: -log_evidence(features, target, *np.exp(np.clip(at, -12, 12))),
                start,
                method="Nelder-Mead",
                options={"xatol": 1e-6, "fatol": 1e-9, "maxiter": 2000},
            ).fun
            for start in ([0.0, 0.0], [3.0, 2.0], [-3.0, 2.0])
        ]
        scores.append(-min(found) / len(labels))
    return float(np.mean(scores))


@pytest.mark.parametrize(("n", "d"), [(30, 4), (12, 20)], ids=["N>D", "N<D"])
def test_it_is_the_maximum_of_the_evidence(n: int, d: int) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(n) % 3
    features = generator.normal(size=(n, d)) + generator.normal(size=(3, d))[labels]
    score = logme(torch.from_numpy(features), torch.from_numpy(labels))
    assert score == pytest.approx(by_definition(features, labels), abs=2e-4)


def test_no_fixed_point_of_the_papers_iteration_is_higher() -> None:
    """The paper's algorithm 1, written with matrices: gamma, alpha and beta until they stay."""
    generator = np.random.default_rng(1)
    labels = np.arange(60) % 3
    features = generator.normal(size=(60, 5)) + 2 * generator.normal(size=(3, 5))[labels]
    scores = []
    for k in range(3):
        target, alpha, beta = (labels == k).astype(float), 1.0, 1.0
        for _ in range(500):
            precision = alpha * np.eye(5) + beta * features.T @ features
            mean = beta * np.linalg.solve(precision, features.T @ target)
            gamma = sum(beta * s / (alpha + beta * s) for s in np.linalg.eigvalsh(features.T @ features))
            alpha = gamma / float(mean @ mean)
            beta = (60 - gamma) / float(((features @ mean - target) ** 2).sum())
        scores.append(log_evidence(features, target, alpha, beta) / 60)
    assert logme(torch.from_numpy(features), torch.from_numpy(labels)) == pytest.approx(np.mean(scores), abs=1e-6)


def test_one_feature_by_hand() -> None:
    # F = (1, 1, -1, -1), y = (1, 1, 0, 0): FᵀF = 4, (Uᵀy)² = (2/2)² = 1 of ‖y‖² = 2. With t = α/β and q = t/(4 + t):
    # β = 4/(1 + q), log evidence = ½(4·log β - 4 - 4·log 2π + log q). The derivative by q, 1/q - 4/(1 + q) = 0, gives
    # q = 1/3 and β = 3. The other class has the same by symmetry.
    score = logme(torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]), torch.tensor([0, 0, 1, 1]))
    expected = (4 * math.log(3) - 4 - 4 * math.log(2 * math.pi) + math.log(1 / 3)) / 2 / 4
    assert score == pytest.approx(expected, abs=1e-9)


def test_the_scale_of_the_features_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(40, 3, generator=generator, dtype=torch.float64), torch.arange(40) % 2
    assert logme(1e5 * features, labels) == pytest.approx(logme(features, labels), rel=1e-7)
