"""What a search chose, by train and val alone; what its records are made of."""

from __future__ import annotations

from dataclasses import dataclass

from richrep.evaluation.search.probes import Probes
from richrep.evaluation.search.proxy import Proxy
from richrep.evaluation.search.strategies import Scored, Subset


@dataclass(frozen=True, eq=False)
class SoftSubset:
    """All members with learned scales (M,), 0 for those left out; `probes` has them as one member."""

    scales: tuple[float, ...]
    proxy_accuracy: float
    probes: Probes


@dataclass(frozen=True, eq=False)
class Found:
    """What was chosen, by train and val alone.

    Attributes:
        scored: every subset the proxy scored.
        probes: full probes of `path`, the best subset of every size in full, and of `extra`, the others, best first.
        chosen: the best of those on val.
        soft: with learned scales, when asked for.
        search_s: time of proxy and strategy.
    """

    scored: Scored
    proxy: Proxy
    probes: Probes
    path: tuple[Subset, ...]
    extra: tuple[Subset, ...]
    chosen: Subset
    soft: SoftSubset | None
    search_s: float
