"""K-shot: what is drawn, what selects, and that nothing else of train does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from richrep.errors import DatasetError, RichrepError
from richrep.evaluation.protocols import make_protocol
from richrep.evaluation.protocols.draw import DrawingProtocol, Pool
from richrep.evaluation.protocols.kshot import KShotProtocol
from richrep.features.feature_set import Block, FeatureSet

FEW = {"cs": (1e-3, 1e-1, 10.0), "normalizations": ("none", "standard")}
NAMES = ("ant", "bee", "cow")


def make_pool(counts: tuple[int, ...] = (9, 7, 12), *, stored: bool = False) -> Pool:
    """Labels in turn; every fourth row is val."""
    labels = np.repeat(np.arange(len(counts)), counts)
    val = np.arange(0, len(labels), 4)
    return Pool(labels, NAMES, np.setdiff1d(np.arange(len(labels)), val), val, val_is_stored=stored)


@pytest.fixture(scope="module")
def digits() -> FeatureSet:
    pixels, labels = load_digits(return_X_y=True)
    features = torch.from_numpy(pixels[:600]).float() / 16
    return FeatureSet(features, torch.from_numpy(labels[:600]), 10, (Block("pixels", 0, 64),), key="digits")


@pytest.fixture(scope="module")
def pool(digits: FeatureSet) -> Pool:
    rows = np.arange(600)
    names = tuple("0123456789")
    return Pool(digits.labels.numpy(), names, rows[rows % 5 > 0], rows[rows % 5 == 0], val_is_stored=False)


# Drawing


def test_every_draw_has_n_images_of_every_class_and_no_image_twice() -> None:
    pool = make_pool()
    draws = KShotProtocol("kshot:4", repeats=6).draws(pool, seed=3)
    assert len(draws) == 6
    for number, draw in enumerate(draws):
        assert draw.seed == (3, number)
        assert np.bincount(pool.labels[draw.fit_rows]).tolist() == [4, 4, 4]
        assert len(np.unique(draw.fit_rows)) == 12
        assert np.array_equal(draw.train_rows, draw.fit_rows) and np.array_equal(draw.val_rows, draw.fit_rows)
        assert draw.num_val == 0 and draw.val == "4 folds of the drawn images, each held out once"
    assert len({tuple(sorted(draw.fit_rows)) for draw in draws}) == 6


def test_the_same_seed_draws_the_same_and_another_others() -> None:
    protocol, pool = KShotProtocol("kshot:2", repeats=3), make_pool()
    one, again, other = (protocol.draws(pool, seed=seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a.fit_rows, b.fit_rows) for a, b in zip(one, again, strict=True))
    assert not any(np.array_equal(a.fit_rows, b.fit_rows) for a, b in zip(one, other, strict=True))


def test_images_set_apart_as_val_are_drawn_too_unless_the_data_set_stores_them() -> None:
    carved, stored = make_pool(), make_pool(stored=True)
    assert np.array_equal(carved.whole_train, np.arange(28))
    protocol = KShotProtocol("kshot:3", repeats=30)
    drawn = {row for draw in protocol.draws(carved, seed=0) for row in draw.fit_rows}
    assert drawn & set(carved.val_rows)
    assert not {row for draw in protocol.draws(stored, seed=0) for row in draw.fit_rows} & set(stored.val_rows)


def test_with_the_whole_val_only_the_rest_is_drawn_and_fitted() -> None:
    pool = make_pool()
    for draw in KShotProtocol("kshot-whole-val:2", repeats=5).draws(pool, seed=0):
        assert np.array_equal(draw.val_rows, pool.val_rows) and draw.num_val == 7
        assert len(draw.fit_rows) == 6 and not set(draw.fit_rows) & set(pool.val_rows)
        assert np.array_equal(draw.fit_rows, draw.train_rows)


# Selecting


def test_only_the_drawn_rows_decide(digits, pool) -> None:
    """All others are poisoned; what is chosen, fitted and said of val stays."""
    protocol = KShotProtocol("kshot:4", repeats=1, **FEW)
    (draw,) = protocol.draws(pool, seed=0)
    others = np.setdiff1d(np.arange(600), draw.fit_rows)
    features, labels = digits.features.clone(), digits.labels.clone()
    features[others], labels[others] = 1e3, 0
    one = protocol.select(digits, draw.train_rows, draw.val_rows)
    two = protocol.select(replace(digits, features=features, labels=labels), draw.train_rows, draw.val_rows)
    assert one.hyperparameters == two.hyperparameters
    torch.testing.assert_close(one.val_logits, two.val_logits)


def test_the_choice_has_the_most_hits_of_scikit_learns_heads_on_the_same_folds(digits, pool) -> None:
    protocol = KShotProtocol("kshot:4", repeats=1, folds=2, cs=(1e-4, 1e-2, 1.0), normalizations=("none",))
    (draw,) = protocol.draws(pool, seed=1)
    x, y = digits.features.double().numpy()[draw.fit_rows], digits.labels.numpy()[draw.fit_rows]
    fold = np.arange(40) % 4 % 2  # four of a class lie side by side, and are dealt to two folds
    losses, hits = {}, {}
    for c in protocol.cs:
        l2, probs = 1 / (40 * c), np.empty((40, 10))
        for number in (0, 1):
            head = LogisticRegression(C=1 / (20 * l2), max_iter=5000, tol=1e-8)
            probs[fold == number] = head.fit(x[fold != number], y[fold != number]).predict_proba(x[fold == number])
        hits[l2] = (probs.argmax(1) == y).sum()
        losses[l2] = -np.log(probs[np.arange(40), y]).mean()
    best = max(hits, key=lambda l2: (hits[l2], -losses[l2]))
    choice = protocol.select(digits, draw.train_rows, draw.val_rows)
    assert choice.hyperparameters == {"l2": pytest.approx(best), "normalization": "none"}
    assert int((choice.val_logits.argmax(1).numpy() == y).sum()) == hits[best]
    found = torch.nn.functional.cross_entropy(choice.val_logits.double(), torch.from_numpy(y))
    assert float(found) == pytest.approx(losses[best], rel=1e-2)


def test_one_image_a_class_is_fitted_as_stated_with_nothing_selected(digits, pool) -> None:
    protocol = KShotProtocol("kshot:1", repeats=1)
    (draw,) = protocol.draws(pool, seed=0)
    assert len(draw.val_rows) == 0 and draw.val.startswith("none: one image a class")
    choice = protocol.select(digits, draw.train_rows, draw.val_rows)
    assert choice.hyperparameters == {"l2": 1 / 10, "normalization": "block-l2"} and len(choice.val_logits) == 0
    head = protocol.refit(digits.take(draw.fit_rows), choice)
    accuracy = (head.logits(digits.features).argmax(1) == digits.labels).double().mean()
    assert accuracy > 0.4  # chance is 0.1
    only = replace(protocol, normalizations=("standard",)).select(digits, draw.train_rows, draw.val_rows)
    assert only.hyperparameters["normalization"] == "standard"


def test_with_the_whole_val_the_choice_is_that_of_logistic(digits, pool) -> None:
    protocol = KShotProtocol("kshot-whole-val:3", repeats=1, **FEW)
    (draw,) = protocol.draws(pool, seed=0)
    choice = protocol.select(digits, draw.train_rows, draw.val_rows)
    plain = make_protocol("logistic", **FEW).select(digits, draw.train_rows, draw.val_rows)
    assert choice.hyperparameters == plain.hyperparameters and len(choice.val_logits) == 120


def test_views_of_an_image_are_in_its_own_fold(digits, pool) -> None:
    """With every view the image itself, a held-out image's views in training would name it: all would be hits."""
    noise = torch.randn(600, 64, generator=torch.Generator().manual_seed(0))
    nothing = replace(digits, features=noise)
    with_views = replace(nothing, views=(noise, noise, noise))
    protocol = KShotProtocol("kshot:5", repeats=1, cs=(10.0,), normalizations=("none",))
    (draw,) = protocol.draws(pool, seed=0)
    plain, viewed = (protocol.select(one, draw.train_rows, draw.val_rows) for one in (nothing, with_views))
    torch.testing.assert_close(plain.val_logits, viewed.val_logits, rtol=0, atol=1e-2)
    assert (viewed.val_logits.argmax(1) == digits.labels[draw.val_rows]).double().mean() < 0.4


# Names and bad input


@pytest.mark.parametrize(
    "name", ["kshot:0", "kshot:x", "kshot:", "kshot:-3", "kshot:2.5", "kshot:N", "kshot-whole-val:0"]
)
def test_a_number_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(RichrepError, match=rf"'{name}' is no protocol: after the colon comes the number .* kshot:5"):
        make_protocol(name)


def test_names_with_a_number_are_found_and_others_are_not() -> None:
    for key in ("kshot:N", "kshot-whole-val:N"):
        protocol = make_protocol(key.replace("N", "7"))
        assert isinstance(protocol, KShotProtocol) and isinstance(protocol, DrawingProtocol)
        assert (protocol.name, protocol.shots) == (key.replace("N", "7"), 7)
    for name in ("kshot", "ridge:5", "kshoot:5"):
        with pytest.raises(RichrepError, match=f"Unknown protocol '{name}'"):
            make_protocol(name)


def test_a_class_of_fewer_images_is_named_with_its_count() -> None:
    with pytest.raises(
        DatasetError, match="kshot:8 needs 8 training images of every class, but class 'bee' has 7 in train"
    ):
        KShotProtocol("kshot:8").draws(make_pool(), seed=0)
    with pytest.raises(DatasetError, match="'ant' has 6 without val"):
        KShotProtocol("kshot-whole-val:7").draws(make_pool(), seed=0)


def test_no_repeat_or_one_fold_is_refused() -> None:
    with pytest.raises(RichrepError, match="got repeats=0 and folds=5"):
        KShotProtocol(repeats=0)
    with pytest.raises(RichrepError, match="got repeats=10 and folds=1"):
        KShotProtocol(folds=1)
