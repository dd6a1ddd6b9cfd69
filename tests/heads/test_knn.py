"""k nearest neighbours against scikit-learn's, by hand, and in chunks."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from richrep.errors import RichrepError
from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.features.pca import fit_named
from richrep.heads import knn
from richrep.heads.knn import KnnHead, nearest, vote


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """400 to learn from, 200 to ask; in generic position, so that no two neighbours are equally near."""
    pixels, labels = load_digits(return_X_y=True)
    features = torch.from_numpy(pixels[:600]) / 16
    features = features + 1e-3 * torch.randn(600, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return features[:400], torch.from_numpy(labels[:400]), features[400:], torch.from_numpy(labels[400:600])


@pytest.mark.parametrize("k", [1, 5, 20])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_votes_are_those_of_scikit_learn_under_dinos_weights(digits, k: int, temperature: float) -> None:
    train, labels, new, _ = digits
    theirs = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / temperature)
    ).fit(train, labels)
    ours = KnnHead(k, temperature=temperature, smoothing=0).fit(train, labels)
    np.testing.assert_allclose(ours.predict_proba(new), theirs.predict_proba(new), atol=1e-9)
    np.testing.assert_array_equal(ours.predict(new), theirs.predict(new))


def dino(train: torch.Tensor, labels: torch.Tensor, new: torch.Tensor, *, k: int, temperature: float) -> torch.Tensor:
    """Scores (Q, K) by the procedure of DINO's evaluation, one query after the other: for the k images of largest inner
    product of unit features, exp(product/T) is added to the score of the image's class."""
    unit_train = train / train.norm(dim=1, keepdim=True)
    scores = torch.zeros(len(new), int(labels.max()) + 1, dtype=torch.float64)
    for row, query in enumerate(new):
        products = unit_train @ (query / query.norm())
        for place in products.argsort(descending=True)[:k].tolist():
            scores[row, labels[place]] += math.exp(float(products[place]) / temperature)
    return scores


def test_the_defaults_are_dinos_and_smoothing_keeps_the_order(digits) -> None:
    train, labels, new, truth = digits
    scores = dino(train, labels, new, k=20, temperature=0.07)
    logits = KnnHead().fit(train, labels).logits(new)
    assert torch.equal(logits.argmax(1), scores.argmax(1))
    shares = scores / scores.sum(1, keepdim=True)
    torch.testing.assert_close(logits.exp(), (20 * shares + 0.1) / 21)  # one neighbour's worth over ten classes
    assert (logits.argmax(1) == truth).double().mean() > 0.8
    assert logits.isfinite().all()


def test_three_votes_by_hand() -> None:
    # cosines to (1, 0): 1, 0.6, 0, -1; with k = 3 and T = 0.5 the weights are e², e^1.2 and 1
    bank = torch.tensor([[2.0, 0.0], [3.0, 4.0], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    head = KnnHead(3, temperature=0.5, smoothing=0).fit(bank, torch.tensor([0, 1, 1, 2]), num_classes=4)
    weights = [math.exp(2), math.exp(1.2) + 1]
    expected = torch.tensor([[weights[0], weights[1], 0, 0]], dtype=torch.float64) / sum(weights)
    query = torch.tensor([[5.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(head.logits(query).exp(), expected)
    # smoothed by one neighbour over the three classes seen: (3v + 1/3)/4; the fourth class stays impossible
    smooth = (3 * expected + torch.tensor([1 / 3, 1 / 3, 1 / 3, 0])) / 4
    torch.testing.assert_close(head.set_params(smoothing=1.0).logits(query).exp(), smooth)


# chunks of the bank of 1, 7 and all 400 rows; 3, 11 and all 200 queries ready at once
@pytest.mark.parametrize(("chunk_values", "ready"), [(64, 3), (64 * 7, 11), (64 * 7, 200), (2**21, 2**20)])
def test_chunks_of_either_side_change_nothing(digits, chunk_values: int, ready: int) -> None:
    train, labels, new, _ = digits
    whole = KnnHead().fit(train, labels).logits(new)
    memory = replace(FRUGAL, chunk_values=chunk_values, rotated=ready * 64 * 24)
    parts = KnnHead().fit(train, labels, memory=memory).logits(new)
    torch.testing.assert_close(parts, whole, rtol=1e-10, atol=1e-10)


def test_the_bank_is_read_once_for_all_queries_that_are_ready(digits, monkeypatch) -> None:
    train, labels, new, _ = digits
    sizes: list[int] = []
    unit_rows = knn.unit_rows
    monkeypatch.setattr(knn, "unit_rows", lambda values: sizes.append(len(values)) or unit_rows(values))
    memory = replace(FRUGAL, chunk_values=64 * 100, rotated=150 * 64 * 24)
    KnnHead().fit(train, labels, memory=memory).logits(new)
    assert sizes == [150, 100, 100, 100, 100, 50, 100, 100, 100, 100]  # of 200 queries, and of a bank of 400


def test_a_limit_too_small_for_the_neighbours_says_what_would_do() -> None:
    bank = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
    # 1,000 neighbours of 2,000 images, 32 bytes each, are 64 MB, 35 % of 183 MB
    with pytest.raises(RichrepError, match=r"finding 1,000 neighbours of 2,000 images takes 64 MB, so at least 184 MB"):
        nearest(bank, bank, fit_named("none", bank), k=1000, memory=MemoryBudget.of("150MB"))


def test_rows_equal_a_copy_of_those_rows(digits) -> None:
    train, _, new, _ = digits
    rows = torch.randperm(400, generator=torch.Generator().manual_seed(0))[:150]
    normalization = fit_named("standard", train, rows)
    cosines, index = nearest(new, train, normalization, k=10, rows=rows)
    copied, places = nearest(new, train[rows], normalization, k=10)
    torch.testing.assert_close(cosines, copied)
    assert torch.equal(index, rows[places])
    assert (cosines.diff(dim=1) <= 0).all()  # nearest first


def test_more_neighbours_than_rows_are_all_rows() -> None:
    bank, labels = torch.eye(4, dtype=torch.float64), torch.tensor([0, 0, 1, 1])
    many, four = (KnnHead(k).fit(bank, labels).logits(bank) for k in (50, 4))
    torch.testing.assert_close(many, four)


def test_votes_of_the_first_few_neighbours_are_those_of_a_smaller_k(digits) -> None:
    """How a protocol tries every k after one search."""
    train, labels, new, _ = digits
    normalization, seen = fit_named("none", train), torch.ones(10, dtype=torch.bool)
    cosines, rows = nearest(new, train, normalization, k=50)
    votes = vote(cosines[:, :5], labels[rows[:, :5]], seen=seen, temperature=0.07, smoothing=1.0)
    torch.testing.assert_close(votes, KnnHead(5).fit(train, labels).logits(new))


def test_a_small_temperature_neither_overflows_nor_vanishes(digits) -> None:
    train, labels, new, _ = digits
    logits = KnnHead(temperature=1e-4).fit(train.float(), labels).logits(new.float())
    assert logits.isfinite().all()
    assert torch.equal(logits.argmax(1), KnnHead(1).fit(train, labels).logits(new).argmax(1))


@pytest.mark.parametrize("options", [{"k": 0}, {"temperature": 0.0}, {"temperature": float("nan")}, {"smoothing": -1}])
def test_options_that_make_no_sense_are_refused(digits, options) -> None:
    (name, value), *_ = options.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        KnnHead(**options).fit(digits[0], digits[1])
