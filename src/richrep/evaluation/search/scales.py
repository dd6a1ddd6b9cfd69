"""A learned scale for every member: the soft version of a subset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from richrep.evaluation.search.proxy import Proxy
from richrep.evaluation.search.strategies import Subset
from richrep.features.feature_set import FeatureSet, concat_features
from richrep.features.normalize import fit_normalization, moments
from richrep.heads.head import as_tensor

FACTORS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)  # an l2 penalty sees the square: 1/16 to 16
MAX_ROUNDS = 3


def search_scales(proxy: Proxy, start: Subset, num_members: int) -> tuple[list[float], float]:
    """A scale in `FACTORS` for each of M members with a higher proxy score than `start`, and that score.

    Coordinate search from scale 1 for the members of `start` and 0 for the others: member by member the best factor is
    kept, until a round changes nothing (at most three). Scales only move where the score rises.
    """
    scales = [1.0 if i in start else 0.0 for i in range(num_members)]
    best = _score(proxy, scales)
    for _ in range(MAX_ROUNDS):
        before = list(scales)
        for i in range(num_members):
            for factor in FACTORS:
                tried = [*scales[:i], factor, *scales[i + 1 :]]
                if factor != scales[i] and any(tried) and (score := _score(proxy, tried)) > best:
                    scales, best = tried, score
        if scales == before:
            break
    return scales, best


def _score(proxy: Proxy, scales: Sequence[float]) -> float:
    subset = tuple(i for i, scale in enumerate(scales) if scale > 0)
    return proxy.score(subset, [scales[i] for i in subset])


def unit_factors(members: Sequence[FeatureSet], train_rows: np.ndarray) -> list[float]:
    """What each member is multiplied by to have root-mean-square 1 over the training rows."""
    rows = torch.as_tensor(train_rows)
    found = []
    for member in members:
        stats = moments(member.features, rows, with_gram=False)
        found.append(float(fit_normalization("block-rms", stats, dtype=member.features.dtype).scale[0]))
    return found


def scaled(members: Sequence[FeatureSet], factors: Sequence[float]) -> FeatureSet:
    """The members whose factor is not 0, each times its factor, side by side."""
    pairs = [(member, factor) for member, factor in zip(members, factors, strict=True) if factor]
    return concat_features(
        [replace(m, features=as_tensor(m.features) * f, key=f"{m.key} times {f!r}") for m, f in pairs]
    )
