"""Cosine softmax against its definition, its class means and another optimiser."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from torch.nn import functional as F

from richrep.features.pca import fit_named
from richrep.heads.cosine import CosineHead, _Loss
from richrep.heads.prototypes import PrototypesHead


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    pixels, labels = load_digits(return_X_y=True)
    features, labels = torch.from_numpy(pixels) / 16, torch.from_numpy(labels)
    return features[:400], labels[:400], features[400:800], labels[400:800]


def cosine_loss(
    weights: torch.Tensor, features: torch.Tensor, labels: torch.Tensor, temperature: float
) -> torch.Tensor:
    """The mean cross-entropy as Gidaris and Komodakis write it."""
    cosines = F.normalize(features, dim=1) @ F.normalize(weights, dim=1).T
    return F.cross_entropy(cosines / temperature, labels)


@pytest.mark.parametrize("chunk_rows", [7, 1000])
def test_the_slope_is_that_of_autograd(digits, chunk_rows: int) -> None:
    train, labels, _, _ = digits
    weights = torch.randn(10, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    loss = _Loss(train, labels, fit_named("none", train), temperature=0.1, shape=(10, 64))
    loss._chunk_rows = chunk_rows
    value, slope = loss(weights.detach().flatten().numpy())
    expected = cosine_loss(weights, train, labels, 0.1)
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-10)
    np.testing.assert_allclose(slope.reshape(10, 64), weights.grad, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_a_long_descent_by_another_optimiser_gets_no_lower(digits, temperature: float) -> None:
    train, labels, _, _ = digits
    head = CosineHead(temperature, tol=1e-9, max_iter=2000).fit(train, labels)
    assert head.converged_
    reached = cosine_loss(head.weight_, train, labels, temperature).item()
    assert head.loss_ == pytest.approx(reached, rel=1e-9)
    weights = torch.randn(10, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.03)
    for _ in range(300):
        optimizer.zero_grad()
        loss = cosine_loss(weights, train, labels, temperature)
        loss.backward()
        optimizer.step()
    assert reached <= loss.item() * (1 + 1e-4)


def test_it_is_better_than_the_class_means_it_starts_from(digits) -> None:
    train, labels, new, truth = digits
    means = PrototypesHead("cosine", temperature=0.1).fit(train, labels)
    trained = CosineHead().fit(train, labels)
    assert trained.loss_ < cosine_loss(means.prototypes_, train, labels, 0.1).item()
    accuracy = [(head.logits(new).argmax(1) == truth).double().mean() for head in (means, trained)]
    assert accuracy[1] > accuracy[0]


def test_the_logits_are_cosines_over_the_temperature(digits) -> None:
    train, labels, new, _ = digits
    head = CosineHead(0.2).fit(train, labels)
    torch.testing.assert_close(head.weight_.norm(dim=1), torch.ones(10, dtype=torch.float64))
    torch.testing.assert_close(head.logits(new), F.normalize(new, dim=1) @ head.weight_.T / 0.2)
    torch.testing.assert_close(head.logits(100 * new), head.logits(new))  # lengths do not count


def test_a_larger_temperature_is_less_sure_of_the_training_images(digits) -> None:
    train, labels, _, _ = digits
    losses = [CosineHead(temperature).fit(train, labels).loss_ for temperature in (0.05, 0.2, 1.0)]
    assert losses == sorted(losses)


def test_a_class_whose_images_have_no_direction_is_learned_from_the_others() -> None:
    features = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.1], [1.0, 0.0]], dtype=torch.float64)
    head = CosineHead().fit(features, torch.tensor([0, 0, 1, 1]))
    assert head.weight_.isfinite().all()
    assert head.logits(features)[2:].argmax(1).tolist() == [1, 1]


def test_too_few_iterations_are_a_warning_with_the_numbers(digits) -> None:
    with pytest.warns(
        ConvergenceWarning, match=r"temperature = 0.01 did not converge in 2 iterations\. Raise max_iter"
    ):
        head = CosineHead(0.01, max_iter=2).fit(digits[0], digits[1])
    assert not head.converged_ and head.n_iter_ == 2


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": float("nan")}, {"max_iter": 0}])
def test_options_that_make_no_sense_are_refused(digits, options) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        CosineHead(**options).fit(digits[0], digits[1])
