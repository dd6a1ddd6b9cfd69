"""The short list: which subsets, of all that the proxy ranked, are probed in full."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from richrep.evaluation.search.strategies import Scored, Subset


def probe_shortlist(proxy: Scored, full: Scored, *, max_members: int, shortlist: int) -> None:
    """Scores in full what is promising, and goes on from the best of it until no neighbour is better.

    First every member alone, the best subset of every size and the next `shortlist` by the proxy. Then, again and
    again, what is left of the best without one of its members, and of its other neighbours the best `shortlist` by the
    proxy: the proxy finds the region, the full probe the place in it. So no member of the best is one too many.

    Args:
        proxy: scored by a strategy; neighbours are added.
        full: the score that decides; what it has scored in the end is all that may be chosen.
    """
    members = [(i,) for i in range(len(proxy.dims))]
    path = [subset for subset in proxy.path() if len(subset) <= max_members]
    others = [subset for subset in proxy.values if len(subset) <= max_members and subset not in path]
    first = {*proxy.best(members, len(members)), *path, *proxy.best(others, shortlist)}
    (best,) = full.best(first)
    while True:
        fewer = list(_without_one(best))
        around = [s for s in neighbours(best, len(members)) if len(s) <= max_members and s not in full.values]
        full.best({*proxy.best(fewer, len(fewer)), *proxy.best(around, shortlist)})
        (better,) = full.best(full.values)
        if better == best:
            return
        best = better


def neighbours(subset: Subset, count: int) -> Iterator[Subset]:
    """The subsets of `count` members that differ from `subset` by one member that joins, leaves or is exchanged."""
    outside = [i for i in range(count) if i not in subset]
    yield from _without_one(subset)
    for rest in (subset, *combinations(subset, len(subset) - 1)):
        yield from (tuple(sorted((*rest, i))) for i in outside)


def _without_one(subset: Subset) -> Iterator[Subset]:
    return combinations(subset, len(subset) - 1) if len(subset) > 1 else iter(())
