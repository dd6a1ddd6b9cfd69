"""How the learning rate falls: one factor of it for every epoch, first to last."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

LrFactors = Sequence[float] | Callable[[int], float]


def constant(epochs: int) -> tuple[float, ...]:
    """No change.

    >>> constant(2)
    (1.0, 1.0)
    """
    return (1.0,) * epochs


def step(epochs: int, milestones: Sequence[int], gamma: float = 0.1) -> tuple[float, ...]:
    """Times `gamma` from each of the milestones on, which count epochs from 0; torch's MultiStepLR.

    >>> step(4, (1, 3), 0.5)
    (1.0, 0.5, 0.5, 0.25)
    """
    return tuple(gamma ** sum(epoch >= milestone for milestone in milestones) for epoch in range(epochs))


def cosine(epochs: int, *, late: bool = False) -> tuple[float, ...]:
    """½(1 + cos(πe/E)) in epoch e of E.

    Args:
        late: as t-ReX's transfer suite sets it, after the epoch instead of before: one epoch behind from the second on.

    >>> [round(factor, 3) for factor in cosine(4)], [round(factor, 3) for factor in cosine(4, late=True)]
    ([1.0, 0.854, 0.5, 0.146], [1.0, 1.0, 0.854, 0.5])
    """
    places = [max(0, epoch - late) for epoch in range(epochs)]
    return tuple(0.5 * (1 + math.cos(math.pi * place / epochs)) for place in places)


def factor_at(factors: LrFactors, place: int) -> float:
    """The factor of an epoch, or of a step, counted from 0."""
    return float(factors(place) if callable(factors) else factors[place])
