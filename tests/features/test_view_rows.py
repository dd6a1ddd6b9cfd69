"""Views as rows, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from richrep.errors import RichrepError
from richrep.features.feature_set import Block, FeatureSet, concat_features
from richrep.features.memory import MemoryBudget
from richrep.features.view_rows import with_views_as_rows

PLAIN = FeatureSet(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 1, 2]), 3, (Block("one", 0, 1),), key="one")


def viewed() -> FeatureSet:
    views = tuple(PLAIN.features + add for add in (10, 20))
    return FeatureSet(PLAIN.features, PLAIN.labels, 3, PLAIN.blocks, key="views", views=views)


def test_train_rows_are_there_once_a_view_and_val_rows_as_they_are() -> None:
    found, train, val = with_views_as_rows(viewed(), np.array([2, 0]), np.array([1]))
    assert found.features.tolist() == [[13], [11], [23], [21], [2]]
    assert found.labels.tolist() == [2, 0, 2, 0, 1]
    assert (train.tolist(), val.tolist()) == ([0, 1, 2, 3], [4])
    assert found.views == () and found.key not in ("views", "one")


def test_without_views_nothing_is_done() -> None:
    rows = np.array([2, 0]), np.array([1])
    assert with_views_as_rows(PLAIN, *rows) == (PLAIN, *rows)


def test_half_precision_side_by_side_is_read_as_single() -> None:
    half = tuple(view.half() for view in viewed().views)
    member = FeatureSet(PLAIN.features.half(), PLAIN.labels, 3, PLAIN.blocks, key="half", views=half)
    found, _, _ = with_views_as_rows(concat_features([member, member], max_bytes=0), np.array([0, 1]), np.array([2]))
    assert found.features.dtype == torch.float32
    assert found.features.tolist() == [[11, 11], [12, 12], [21, 21], [22, 22], [3, 3]]


def test_more_rows_than_the_memory_allows_are_refused() -> None:
    many = torch.zeros(100_000, 100)
    wide = FeatureSet(
        many, torch.zeros(100_000, dtype=torch.int64), 3, (Block("one", 0, 100),), key="", views=(many, many)
    )
    rows = np.arange(100_000)
    # 200,000 rows of 100 values of 4 bytes are 80 MB, a quarter of 320
    with pytest.raises(RichrepError, match=r"one row for each of 2 views takes 80 MB, so at least 321 MB are needed"):
        with_views_as_rows(wide, rows, rows[:0], memory=MemoryBudget.of("200MB"))
    assert len(with_views_as_rows(wide, rows, rows[:0], memory=MemoryBudget.of("321MB"))[0]) == 200_000
