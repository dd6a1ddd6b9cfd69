"""Views as more training rows, for heads that are fitted at once and have no epochs to cycle through views in."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import torch

from richrep.features.feature_set import FeatureSet
from richrep.features.memory import FRUGAL, MemoryBudget
from richrep.features.rows import as_rows


def with_views_as_rows(
    trainval: FeatureSet, train_rows: np.ndarray, val_rows: np.ndarray, *, memory: MemoryBudget = FRUGAL
) -> tuple[FeatureSet, np.ndarray, np.ndarray]:
    """The V views of the train rows one below the other, then the val rows as they are; (features, train, val rows).

    A head with no epochs is fitted on all V·n rows at once: the mean of its loss over the views. Without views all is
    handed back as it is.

    Raises:
        RichrepError: the rows take more than `memory` allows; unlike the features they are not mapped from files.
    """
    if not trainval.views:
        return trainval, train_rows, val_rows
    train, val = (torch.as_tensor(rows, dtype=torch.int64) for rows in (train_rows, val_rows))
    num_train, count = len(train) * len(trainval.views), len(trainval.views)
    memory.check_copy(4 * (num_train + len(val)) * trainval.feature_dim, f"one row for each of {count} views")
    parts = [as_rows(view, train)[:] for view in trainval.views] + [as_rows(trainval.features, val)[:]]
    digest = hashlib.sha256(f"{trainval.key} views as rows ".encode())
    digest.update(train.numpy().tobytes() + b" val " + val.numpy().tobytes())
    stacked = replace(
        trainval,
        features=torch.cat(parts),
        labels=torch.cat([trainval.labels[train].repeat(count), trainval.labels[val]]),
        key=digest.hexdigest(),
        images="",
        skipped=(),
        views=(),
        drawn=None,
    )
    return stacked, np.arange(num_train), np.arange(num_train, num_train + len(val))
