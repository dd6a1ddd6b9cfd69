"""`digits`: the 1,797 real 8x8 grey images bundled with scikit-learn; the default that needs no network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from richrep.data.sources.layout import split_by_seed
from richrep.data.split import Dataset, Split
from richrep.data.stores import ArrayStore

TEST_FRACTION = 0.3


def load(rest: str, *, data_root: Path) -> Dataset:
    """The digits, split 70/30 per class by the fixed seed and interleaved by class; neither argument plays a part.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998; its test set of 1,797.
    """
    digits = load_digits()
    pixels = ((digits.images * 255 + 8) // 16).astype(np.uint8)  # (N, 8, 8), 0 … 16 -> 0 … 255, rounded
    whole = Split(
        dataset="digits",
        part="train",
        images=ArrayStore(pixels, source="digits"),
        positions=np.arange(len(pixels)),
        labels=digits.target.astype(np.int64),
        class_names=tuple("0123456789"),
    )
    train, test = split_by_seed(whole, test_fraction=TEST_FRACTION)
    return Dataset(address="digits", name="digits", train=train, test=test)
