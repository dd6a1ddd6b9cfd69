"""VTAB-1k: 800 + 200 images, and no other."""

from __future__ import annotations

import numpy as np
import pytest

from richrep.errors import DatasetError
from richrep.evaluation.protocols.draw import Pool
from richrep.evaluation.protocols.vtab1k import Vtab1kProtocol


def make_pool(num_train: int, num_val: int, *, stored: bool) -> Pool:
    labels = np.arange(num_train + num_val) % 7
    train, val = np.split(np.random.default_rng(0).permutation(len(labels)), [num_train])
    return Pool(labels, tuple("abcdefg"), train, val, val_is_stored=stored)


def test_eight_hundred_train_and_two_hundred_select_and_all_are_fitted_on() -> None:
    (draw,) = Vtab1kProtocol().draws(make_pool(1600, 400, stored=False), seed=4)
    assert (len(draw.train_rows), len(draw.val_rows), draw.num_val) == (800, 200, 200)
    assert len(np.unique(draw.fit_rows)) == 1000 and draw.seed == (4,)
    assert set(draw.fit_rows) == {*draw.train_rows, *draw.val_rows}
    assert draw.val == "200 images drawn from train, seed 4"


def test_a_stored_val_gives_the_two_hundred() -> None:
    pool = make_pool(1600, 400, stored=True)
    (draw,) = Vtab1kProtocol().draws(pool, seed=0)
    assert set(draw.train_rows) <= set(pool.train_rows) and set(draw.val_rows) <= set(pool.val_rows)


def test_a_thousand_images_are_enough_however_val_was_carved() -> None:
    (draw,) = Vtab1kProtocol().draws(make_pool(790, 210, stored=False), seed=0)
    assert len(np.unique(draw.fit_rows)) == 1000


def test_the_seed_decides_what_is_drawn() -> None:
    pool = make_pool(1600, 400, stored=False)
    one, again, other = (Vtab1kProtocol().draws(pool, seed=seed)[0].fit_rows for seed in (0, 0, 1))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_too_few_images_are_refused_with_their_number() -> None:
    with pytest.raises(DatasetError, match=r"vtab1k needs 1,000 images of train, there are 999"):
        Vtab1kProtocol().draws(make_pool(800, 199, stored=False), seed=0)
    with pytest.raises(DatasetError, match=r"vtab1k needs 200 images of val, there are 199"):
        Vtab1kProtocol().draws(make_pool(800, 199, stored=True), seed=0)
