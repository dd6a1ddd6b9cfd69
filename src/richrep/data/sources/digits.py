"""`digits`: the 1,797 real 8x8 grey images bundled with scikit-learn; the default that needs no network."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from richrep.data.sources.layout import split_by_seed
from richrep.data.sources.registered import RegisteredCopy
from richrep.data.split import Split
from richrep.data.stores import ArrayStore

TEST_FRACTION = 0.3


def read(copy: RegisteredCopy) -> dict[str, Split]:
    """The digits, split 70/30 per class by the fixed seed and interleaved by class; nothing is read from `copy`.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998; its test set of 1,797.
    """
    digits = load_digits()
    pixels = ((digits.images * 255 + 8) // 16).astype(np.uint8)  # (N, 8, 8), 0 … 16 -> 0 … 255, rounded
    whole = Split(
        dataset=copy.name,
        part="train",
        images=ArrayStore(pixels, source=copy.name),
        positions=np.arange(len(pixels)),
        labels=digits.target.astype(np.int64),
        class_names=tuple("0123456789"),
    )
    train, test = split_by_seed(whole, test_fraction=TEST_FRACTION)
    return {"train": train, "test": test}
