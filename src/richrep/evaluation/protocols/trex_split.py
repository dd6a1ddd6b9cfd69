"""The val part of t-ReX's transfer suite, as it is meant and as it is."""

from __future__ import annotations

import random

import numpy as np

from richrep.data.split import rows_of_each_class


def trex_rows(labels: np.ndarray, *, fraction: float, seed: int, leak: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Rows (train, val): of every class of n images the last floor(n·fraction) of a shuffle are val, at least 1 of 2.

    A class of one image stays in train. Both results are sorted.

    Args:
        labels: (N,) of train and val together; a val that the data set stores is not kept apart.
        fraction: in (0, 1).
        leak: as t-ReX computes it: a class too small for floor(n·fraction) >= 1 sets the fraction to 1/n for every
            class after it.

    Source: naver/trex, transfer suite: Python's `random`, one stream over the classes in order of their label.

    >>> labels = np.array([0] * 2 + [1] * 10)
    >>> [len(trex_rows(labels, fraction=0.2, seed=0, leak=leak)[1]) for leak in (False, True)]
    [3, 6]
    """
    generator = random.Random(seed)
    val: list[int] = []
    for rows in rows_of_each_class(labels):
        order = rows.tolist()
        generator.shuffle(order)
        count = int(len(order) * fraction)
        if count == 0 and len(order) > 1:
            count = 1
            if leak:
                fraction = 1 / len(order)
        val += order[len(order) - count :]
    val_rows = np.sort(np.array(val, dtype=np.int64))
    return np.setdiff1d(np.arange(len(labels)), val_rows), val_rows
