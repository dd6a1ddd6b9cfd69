"""t-ReX's val part: its counts by hand, and the leak of its ratio."""

from __future__ import annotations

import random

import numpy as np

from richrep.evaluation.protocols.trex_split import trex_rows


def counts_of(sizes: list[int], *, leak: bool) -> list[int]:
    """Val images of each class, for classes of these sizes."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    train, val = trex_rows(labels, fraction=0.2, seed=0, leak=leak)
    assert sorted([*train, *val]) == list(range(len(labels)))
    return np.bincount(labels[val], minlength=len(sizes)).tolist()


def test_every_class_gives_a_fifth_rounded_down_and_at_least_one_of_two() -> None:
    assert counts_of([10, 14, 4, 2, 1, 20], leak=False) == [2, 2, 1, 1, 0, 4]


def test_the_leak_hands_the_ratio_of_a_small_class_to_all_after_it() -> None:
    # 10·0.2 = 2; 4·0.2 < 1: one, and from here 1/4: 20/4 = 5; a class of 3 has 3/4 < 1: one, and 1/3: 9/3 = 3
    assert counts_of([10, 4, 20, 3, 9], leak=True) == [2, 1, 5, 1, 3]
    assert counts_of([10, 4, 20, 3, 9], leak=False) == [2, 1, 4, 1, 1]


def test_without_a_small_class_there_is_nothing_to_leak() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 25))
    for one, two in zip(*(trex_rows(labels, fraction=0.2, seed=3, leak=leak) for leak in (False, True)), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_rows_are_the_last_of_pythons_shuffle() -> None:
    labels = np.array([1, 0] * 5)
    generator = random.Random(22)
    zeros, ones = list(range(1, 10, 2)), list(range(0, 10, 2))
    generator.shuffle(zeros)
    generator.shuffle(ones)
    assert trex_rows(labels, fraction=0.4, seed=22)[1].tolist() == sorted(zeros[-2:] + ones[-2:])
