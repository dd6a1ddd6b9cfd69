"""The contract of a head, and the checks every head makes.

A head learns from features (N, D) and labels (N,) and gives logits (N, K):

- `fit(features, labels, num_classes=K)` returns the head itself and may be repeated;
- `logits(features)` gives scores (N, K), larger means more likely, and changes nothing.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch

from richrep.errors import FeatureError
from richrep.features.rows import Features, Rows, as_rows


class Head(Protocol):
    """What every member of HEADS can do."""

    def fit(self, features: Any, labels: Any, *, num_classes: int | None = None) -> Head:
        """Learns from features (N, D) and labels (N,); K is `num_classes`, or counted from the labels."""
        ...

    def logits(self, features: Any) -> torch.Tensor:
        """Scores (N, K) of features (N, D)."""
        ...


def check_features(features: Features) -> None:
    """Raises FeatureError unless features have shape (N, D), N, D > 0, and every value is finite."""
    if features.ndim != 2 or 0 in features.shape:
        raise FeatureError(
            f"features must have shape (N, D) with N, D > 0, got {tuple(features.shape)}. "
            "Pool a feature map before the head, e.g. features.mean(dim=(2, 3))."
        )
    rows = as_rows(features)
    step = max(1, 2**20 // rows.shape[1])
    for start in range(0, len(rows), step):  # by rows: no copy of the matrix, and the first bad row is known
        finite = torch.isfinite(rows[start : start + step]).all(dim=1)
        if not bool(finite.all()):
            row = start + int((~finite).nonzero()[0])
            raise FeatureError(
                f"features of row {row} hold NaN or infinity, every value must be finite. "
                "Find the image or the layer that makes them and leave it out."
            )


def check_labels(labels: torch.Tensor, *, num_rows: int, num_classes: int) -> None:
    """Raises ValueError unless labels have shape (N,) and lie in [0, K), K >= 2."""
    if labels.shape != (num_rows,):
        raise ValueError(
            f"labels must have shape ({num_rows},) as there are {num_rows} rows, got {tuple(labels.shape)}."
        )
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}. One class leaves nothing to learn.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"labels must lie in [0, {num_classes}), got {low if low < 0 else high}.")


def as_tensor(values: Any) -> torch.Tensor:
    """A tensor or array as a floating-point tensor, without a copy where possible; integers become float64."""
    if isinstance(values, Rows):
        tensor = values.joined()
    elif isinstance(values, torch.Tensor):
        tensor = values
    else:  # torch takes no read-only array, such as joblib's workers get
        tensor = torch.from_numpy(np.require(values, requirements=["C", "W"]))
    return tensor if tensor.is_floating_point() else tensor.to(torch.float64)
