"""The short list: which subsets, of all that the proxy ranked, are probed in full."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

from richrep.evaluation.search.strategies import Scored, Subset

AtLeast = Callable[[Subset, Subset], float]  # a subset and the best so far -> what the subset scores at least


def probe_shortlist(proxy: Scored, full: Scored, at_least: AtLeast, *, max_members: int, shortlist: int) -> None:
    """Scores in full what is promising, and goes on from the best of it until no neighbour is better.

    First every member alone and the best subset of every size. Then, again and again, the best `shortlist` neighbours
    of the best by the proxy (at first also the next best subsets anywhere) are scored quickly; the best of those is
    scored in full if it must be better. Where none is, what is left of the best without one of its members is scored in
    full: no member of the best is one too many. The proxy finds the region, the full probe the place in it.

    Args:
        proxy: scored by a strategy; neighbours are added.
        full: the score that decides; what it has scored in the end is all that may be chosen.
        at_least: what a neighbour scores at least, by less work than `full`.
    """
    members = [(i,) for i in range(len(proxy.dims))]
    path = [subset for subset in proxy.path() if len(subset) <= max_members]
    (best,) = full.best({*proxy.best(members, len(members)), *path})
    others = [subset for subset in proxy.values if len(subset) <= max_members and subset not in full.values]
    promising = proxy.best(others, shortlist)
    while True:
        around = [s for s in neighbours(best, len(members)) if len(s) <= max_members and s not in full.values]
        bounds = {subset: at_least(subset, best) for subset in {*promising, *proxy.best(around, shortlist)}}
        highest = max(bounds.values(), default=full.values[best])
        better = [subset for subset, bound in bounds.items() if bound == highest > full.values[best]]
        fewer = list(_without_one(best))
        full.best(better or proxy.best(fewer, len(fewer)))
        promising, before = [], best
        (best,) = full.best(full.values)
        if best == before and not better:
            return


def neighbours(subset: Subset, count: int) -> Iterator[Subset]:
    """The subsets of `count` members that differ from `subset` by one member that joins, leaves or is exchanged."""
    outside = [i for i in range(count) if i not in subset]
    yield from _without_one(subset)
    for rest in (subset, *combinations(subset, len(subset) - 1)):
        yield from (tuple(sorted((*rest, i))) for i in outside)


def _without_one(subset: Subset) -> Iterator[Subset]:
    return combinations(subset, len(subset) - 1) if len(subset) > 1 else iter(())
